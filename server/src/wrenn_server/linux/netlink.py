"""Named network namespaces with everything in them, made and removed as wholes.

A namespace is described by a value (`Namespace`) and carried out in one thread of its own, which walks into the new
namespace, prepares it and comes back for the host's side. Named as `ip netns` does it: a bind mount in /run/netns.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wrenn_server.linux import netns, nft
from wrenn_server.linux.rtnetlink import Rtnetlink

RUN_NETNS = Path("/run/netns")

_SYSCTL_NET = Path("/proc/sys/net")
_TUNSETPERSIST, _TUNSETOWNER, _TUNSETGROUP = 0x400454CB, 0x400454CC, 0x400454CE  # linux/if_tun.h
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000  # linux/mount.h
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A persistent TAP that an unprivileged process of this uid or gid may attach to."""

    name: str
    mac: str
    address: str
    """With prefix length."""
    uid: int
    gid: int
    neighbour: tuple[str, str]
    """Address and MAC of the guest behind it, a permanent entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Veth:
    """The namespace's cable to the host. Addresses with prefix length."""

    inside: str
    inside_address: str
    outside: str
    outside_address: str

    @property
    def gateway(self) -> str:
        return self.outside_address.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    name: str
    tap: Tap
    veth: Veth
    ruleset: str
    """nftables text, applied before the cable to the host is up."""
    sysctls: Mapping[str, str] = field(default_factory=dict[str, str])
    """Paths under /proc/sys/net → values, set before any device exists."""


class Netlink:
    """What the host agent asks of the kernel's network configuration. Raises OSError with the kernel's reason."""

    async def create(self, plan: Namespace) -> None:
        """:raises FileExistsError: namespace or cable exist; nothing is left behind after any error.
        :raises CommandFailed: nft refused the rule set"""
        await netns.in_own_thread(lambda: _create(plan))

    async def delete(self, names: Sequence[str], links: Sequence[str]) -> None:
        """Namespaces and host ends of cables. Missing ones are no error. When it returns they are gone; a namespace
        that still has a process or socket in it lives on without name and cable until that ends."""
        await netns.in_own_thread(lambda: _delete(names, links))

    async def names(self, prefix: str) -> list[str]:
        """Of namespaces."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(RUN_NETNS) if name.startswith(prefix))
        return []

    async def links(self, prefix: str) -> list[str]:
        """Of the host's own network devices."""
        return sorted(name for _, name in socket.if_nameindex() if name.startswith(prefix))

    async def forwards(self) -> bool:
        """Whether the host forwards IPv4 packets between its devices."""
        return (_SYSCTL_NET / "ipv4/ip_forward").read_text().strip() == "1"

    async def tcp_socket(self, namespace: Path) -> socket.socket:
        """A new non-blocking IPv4 TCP socket that lives in that namespace.

        :raises FileNotFoundError: there is no such namespace"""
        return await _socket(namespace, socket.SOCK_STREAM)

    async def udp_socket(self, namespace: Path) -> socket.socket:
        """:raises FileNotFoundError: there is no such namespace"""
        return await _socket(namespace, socket.SOCK_DGRAM)


async def _socket(namespace: Path, kind: socket.SocketKind) -> socket.socket:
    def work() -> socket.socket:
        netns.enter(namespace)
        return socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    return await netns.in_own_thread(work)


def _create(plan: Namespace) -> None:
    _share_run_netns()
    path = RUN_NETNS / plan.name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o000))
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Rtnetlink() as host:
            made = netns.new()
            try:
                _mount("/proc/thread-self/ns/net", path, _MS_BIND)
                host.add_veth(plan.veth.outside, plan.veth.inside, made)
            finally:
                os.close(made)
            _furnish(plan)
            netns.enter(home)
            _connect_host_side(host, plan.veth)
    except BaseException:
        with contextlib.suppress(OSError):
            netns.enter(home)
            _delete([plan.name], [plan.veth.outside])
        raise
    finally:
        os.close(home)


def _furnish(plan: Namespace) -> None:
    """Inside: sysctls before devices, the rules before the devices are up."""
    tap, veth = plan.tap, plan.veth
    for name, value in plan.sysctls.items():
        _write_sysctl(name, value)
    device = netns.open_tap(tap.name)
    try:
        fcntl.ioctl(device, _TUNSETOWNER, tap.uid)
        fcntl.ioctl(device, _TUNSETGROUP, tap.gid)
        fcntl.ioctl(device, _TUNSETPERSIST, 1)
    finally:
        os.close(device)
    nft.apply_here(plan.ruleset)
    with Rtnetlink() as here:
        index = socket.if_nametoindex(tap.name)
        here.set_link(tap.name, mac=tap.mac)
        here.add_address(index, tap.address)
        here.set_link(tap.name, up=True)
        here.set_neighbour(index, *tap.neighbour)
        here.add_address(socket.if_nametoindex(veth.inside), veth.inside_address)
        here.set_link(veth.inside, up=True)
        here.set_default_route(veth.gateway)


def _connect_host_side(host: Rtnetlink, veth: Veth) -> None:
    with contextlib.suppress(FileNotFoundError):  # a host booted with ipv6.disable=1
        _write_sysctl(f"ipv6/conf/{veth.outside}/disable_ipv6", "1")
    host.add_address(socket.if_nametoindex(veth.outside), veth.outside_address)
    host.set_link(veth.outside, up=True)


def _delete(names: Sequence[str], links: Sequence[str]) -> None:
    for name in names:
        path = RUN_NETNS / name
        if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) and ctypes.get_errno() not in {
            errno.EINVAL,  # not a mount point: its maker died half-way
            errno.ENOENT,
        }:
            raise OSError(ctypes.get_errno(), f"unmount {path}: {os.strerror(ctypes.get_errno())}")
        path.unlink(missing_ok=True)
    # The kernel is now tearing the namespaces down, all in one batch. Asking for the cables too makes them go even
    # when something still holds a namespace, and makes us wait for their end.
    with Rtnetlink() as host:
        for link in links:
            try:
                host.delete_link(link)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise


def _share_run_netns() -> None:
    """As `ip netns` does: a shared mount, so that removing a name also removes it from other mount namespaces."""
    RUN_NETNS.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _mount("", RUN_NETNS, _MS_SHARED | _MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _mount(os.fspath(RUN_NETNS), RUN_NETNS, _MS_BIND | _MS_REC)
        _mount("", RUN_NETNS, _MS_SHARED | _MS_REC)


def _mount(source: str, target: Path, flags: int) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), b"none", ctypes.c_ulong(flags), None):
        code = ctypes.get_errno()
        raise OSError(code, f"mount {target}: {os.strerror(code)}")


def _write_sysctl(name: str, value: str) -> None:
    """/proc/sys/net shows the namespace of the thread that opens it."""
    with (_SYSCTL_NET / name).open("w") as file:
        file.write(value)
