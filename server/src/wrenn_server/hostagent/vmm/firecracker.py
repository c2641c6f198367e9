"""The Firecracker driver: every VM through the jailer, in its own chroot, PID and network namespace.

The jailer ends as soon as Firecracker runs; so this process becomes a subreaper, which gets the exit codes of
orphaned grandchildren.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wrenn_server.hostagent.network.base import GUEST_MAC
from wrenn_server.hostagent.vmm import jailer as j
from wrenn_server.hostagent.vmm.base import Place, VmGone, VmmError, VmSpec
from wrenn_server.hostagent.vmm.console import Tail, make_fifo, open_fifo, printable
from wrenn_server.hostagent.vmm.firecracker_api import (
    OLDEST,
    ApiClosed,
    FirecrackerApi,
    load_request,
    parse_version,
)
from wrenn_server.hostagent.vmm.firecracker_vm import FirecrackerVm
from wrenn_server.hostagent.vmm.jailer import Jail
from wrenn_server.hostagent.vmm.manifest import Manifest, ManifestError
from wrenn_server.linux import netns
from wrenn_server.linux.cgroup import Cgroup, Cgroups, Limits
from wrenn_server.linux.inotify import Appearance
from wrenn_server.linux.process import Process, become_subreaper, confined, run, spawn
from wrenn_server.linux.unix import short

MIB = 1 << 20
CONSOLE_FIFO, LOG_FIFO = "console", "log"
OVERHEAD_MB = 64
"""Beside guest memory: 5 MiB of Firecracker, page tables, page cache of disk and snapshot writes."""
_PIDS_MAX = 32
"""vCPUs come on top; Firecracker has three threads of its own, KVM may add one."""
_START_TIMEOUT = 15.0
"""Seconds until the API answers; 20 ms on an idle host."""
_FILE_SLACK = 64 * MIB
KERNEL_ARGS = (
    "console=ttyS0 reboot=k panic=-1 quiet loglevel=1 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd "
    "swiotlb=noforce cryptomgr.notests random.trust_cpu=on net.ifnames=0 init=/sbin/wrenn-init"
)
"""Firecracker's own default has `nomodule`, with which Debian's modular kernel finds no disk. The serial console
stays on: bounded by a FIFO, and the only witness of a kernel panic."""

Configure = Callable[[FirecrackerVm], Awaitable[None]]


class FirecrackerDriver:
    """An async context manager. VMs must be left or detached before the driver is."""

    name = "firecracker"
    lazy = False
    ahead = None

    def __init__(self, *, cgroups: Cgroups, firecracker: Path, jailer: Path) -> None:
        self._cgroups = cgroups
        self._firecracker = firecracker
        self._jailer = jailer
        self._version: str | None = None

    async def __aenter__(self) -> Self:
        become_subreaper()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def version(self) -> str:
        if self._version is None:
            found = [await _version_of(binary) for binary in (self._firecracker, self._jailer)]
            if found[0] != found[1]:
                raise VmmError(f"Firecracker is {found[0]} but its jailer is {found[1]}; they must be equal")
            if parse_version(found[0]) < OLDEST:
                raise VmmError(f"Firecracker {found[0]} is older than {'.'.join(map(str, OLDEST))}")
            self._version = found[0]
        return self._version

    def boot(
        self, spec: VmSpec, place: Place, *, template: bool = False
    ) -> AbstractAsyncContextManager[FirecrackerVm]:
        """Every snapshot of Firecracker's is one that many VMs can restore; `template` makes no difference."""

        async def configure(vm: FirecrackerVm) -> None:
            for path, body in boot_requests(spec, place):
                await vm.api.put(path, body)

        files = [
            (spec.kernel, j.KERNEL, True),
            (spec.initrd, j.INITRD, True),
            (spec.root_image, j.ROOT, True),
            (spec.overlay, j.OVERLAY, False),
        ]
        return self._run(spec, place, files, configure, base=None)

    @contextlib.asynccontextmanager
    async def restore(
        self, spec: VmSpec, place: Place, snapshot: Path
    ) -> AsyncGenerator[FirecrackerVm, None]:
        version = await self.version()
        try:
            manifest = Manifest.read(snapshot)
            # Patch releases keep the format of snapshots.
            same_format = parse_version(manifest.version)[:2] == parse_version(version)[:2]
            manifest.check(
                driver=self.name,
                version=manifest.version if same_format else version,
                machine=machine(spec),
            )
        except (ManifestError, ValueError) as error:
            raise VmmError(f"snapshot {snapshot.name} cannot be restored: {error}") from error

        async def configure(vm: FirecrackerVm) -> None:
            request = load_request(parse_version(version), state=j.STATE_IN, memory=j.MEMORY_IN)
            await vm.api.put("/snapshot/load", request)
            await vm.resume()

        files = [
            (spec.root_image, j.ROOT, True),
            (spec.overlay, j.OVERLAY, False),
            (snapshot / "state", j.STATE_IN, True),
            (snapshot / "memory", j.MEMORY_IN, True),
        ]
        base = os.open(snapshot / "memory", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        async with self._run(spec, place, files, configure, base=base) as vm:
            yield vm

    @contextlib.asynccontextmanager
    async def adopt(
        self, spec: VmSpec, place: Place, record: dict[str, Any]
    ) -> AsyncGenerator[FirecrackerVm, None]:
        started = _Started(self._cgroups.open(place.cgroup))
        try:
            jail = Jail(place, Path(record["binary"]))
            version = str(record["version"])
            started.process = Process.open(int(record["pid"]), int(record["started"]))
            started.console, started.log = (
                open_fifo(place.directory / name) for name in (CONSOLE_FIFO, LOG_FIFO)
            )
            started.api = _connect(jail)
        except ProcessLookupError as error:
            started.close()
            raise VmGone(f"{place.id}: its Firecracker process has ended") from error
        except (KeyError, ValueError, TypeError) as error:
            started.close()
            raise VmmError(
                f"{place.id}: the record in the journal is not one of Firecracker's: {error!r}"
            ) from error
        except OSError as error:
            started.close()
            raise VmmError(f"{place.id}: cannot take over its Firecracker: {error}") from error
        # What was tracked is unknown after a restart: the next snapshot is a Full one.
        async with self._vm(spec, jail, started, version, base=None) as vm:
            await vm.api.state()
            yield vm

    @contextlib.asynccontextmanager
    async def _run(
        self,
        spec: VmSpec,
        place: Place,
        files: list[tuple[Path, str, bool]],
        configure: Configure,
        *,
        base: int | None,
    ) -> AsyncGenerator[FirecrackerVm, None]:
        version = await self.version()
        jail = Jail(place, self._firecracker.resolve())
        started = _Started(self._cgroups.open(place.cgroup), base=base)
        try:
            await self._start(started, spec, jail, files)
        except BaseException as error:
            log = await started.undo(jail)
            if isinstance(error, OSError | TimeoutError | VmmError):
                words = f" [{log}]" if log else ""
                raise VmmError(f"{place.id}: starting Firecracker: {error or 'no answer'}{words}") from error
            raise
        async with self._vm(spec, jail, started, version, base=base) as vm:
            try:
                await configure(vm)
            except ApiClosed as error:
                raise await vm.ended_early("starting the guest", error) from error
            except VmmError as error:
                raise VmmError(f"{place.id}: {error}") from error
            yield vm

    async def _start(
        self, started: "_Started", spec: VmSpec, jail: Jail, files: list[tuple[Path, str, bool]]
    ) -> None:
        def prepare() -> None:
            limits = Limits(
                memory_max=(spec.memory_mb + OVERHEAD_MB) * MIB,
                pids_max=_PIDS_MAX + spec.vcpus,
                cpus=spec.vcpus + 0.5,
            )
            self._cgroups.create(jail.place.cgroup, limits)
            started.made = True
            jail.make()
            started.console = make_fifo(jail.place.directory / CONSOLE_FIFO)
            started.log = make_fifo(jail.place.directory / LOG_FIFO)
            os.chown(jail.place.directory / LOG_FIFO, jail.place.uid, jail.place.gid)
            os.link(jail.place.directory / LOG_FIFO, jail.path(j.LOG))
            for source, inside, read_only in files:
                jail.give(source, inside, read_only=read_only)

        def launch() -> None:
            file_size = max(spec.memory_mb * MIB, os.stat(spec.overlay).st_size) + _FILE_SLACK
            argv = confined(jail.argv(self._jailer, file_size=file_size), cgroup=started.cgroup.procs)
            started.jailer = spawn(argv, fds={1: started.console, 2: started.log})

        await netns.in_own_thread(prepare)
        with Appearance(jail.path(j.API_SOCKET).parent) as appearance:
            await netns.in_own_thread(launch)
            assert started.jailer is not None  # noqa: S101 - just made
            async with asyncio.timeout(_START_TIMEOUT):
                code = await started.jailer.wait()
                if code:
                    raise VmmError(f"the jailer ended with code {code}")
                started.process = Process.open(jail.pid())
                started.api = await _reach(jail, started.process, appearance)

    def _vm(
        self, spec: VmSpec, jail: Jail, started: "_Started", version: str, *, base: int | None
    ) -> FirecrackerVm:
        assert started.process is not None and started.api is not None  # noqa: S101, PT018 - both just made
        if started.jailer is not None:
            started.jailer.close()
        return FirecrackerVm(
            jail,
            started.process,
            started.cgroup,
            Tail(started.console),
            Tail(started.log, 16 << 10),
            FirecrackerApi(started.api),
            memory_mb=spec.memory_mb,
            machine=machine(spec),
            version=version,
            base=base,
        )


def machine(spec: VmSpec) -> list[str]:
    """What a snapshot of Firecracker's depends on beside its version; devices and their paths are always the same."""
    return [f"vcpus={spec.vcpus}", f"memory_mb={spec.memory_mb}"]


def boot_requests(spec: VmSpec, place: Place) -> list[tuple[str, dict[str, Any]]]:
    """The calls that configure and start a VM, in order; paths are those inside the jail."""
    return [
        (
            "/machine-config",
            {"vcpu_count": spec.vcpus, "mem_size_mib": spec.memory_mb, "track_dirty_pages": True},
        ),
        (
            "/boot-source",
            {"kernel_image_path": j.KERNEL, "initrd_path": j.INITRD, "boot_args": KERNEL_ARGS},
        ),
        # The initrd finds both by their labels; a root device would only add arguments to the kernel.
        ("/drives/rootfs", _drive("rootfs", j.ROOT, read_only=True)),
        ("/drives/overlay", _drive("overlay", j.OVERLAY, read_only=False)),
        (
            "/network-interfaces/eth0",
            {"iface_id": "eth0", "host_dev_name": place.tap, "guest_mac": GUEST_MAC},
        ),
        ("/entropy", {}),
        ("/actions", {"action_type": "InstanceStart"}),
    ]


def _drive(name: str, path: str, *, read_only: bool) -> dict[str, Any]:
    return {"drive_id": name, "path_on_host": path, "is_root_device": False, "is_read_only": read_only}


@dataclass(slots=True)
class _Started:
    """What exists of a VM before somebody owns it."""

    cgroup: Cgroup
    base: int | None = None
    made: bool = False
    console: int = -1
    log: int = -1
    jailer: Process | None = None
    process: Process | None = None
    api: socket.socket | None = None

    def close(self) -> None:
        for fd in (self.console, self.log, self.base if self.base is not None else -1):
            if fd >= 0:
                os.close(fd)
        if self.api is not None:
            self.api.close()
        for process in (self.jailer, self.process):
            if process is not None:
                process.close()

    async def undo(self, jail: Jail) -> str:
        """Removes everything. Returns what jailer and Firecracker said last."""
        log = ""
        try:
            for process in (self.jailer, self.process):
                if process is not None:
                    process.kill()
                    await process.wait()
            if self.log >= 0:
                with contextlib.suppress(BlockingIOError):
                    log = printable(os.read(self.log, 65536), 1000).strip()
            if self.made:
                await self.cgroup.remove()
                jail.remove()
        finally:
            self.close()
        return log


async def _version_of(binary: Path) -> str:
    try:
        completed = await run([os.fspath(binary), "--version"], timeout=10)
        name, _, version = completed.stdout.decode(errors="replace").split("\n")[0].partition(" ")
        if name.lower() not in {"firecracker", "jailer"}:
            raise ValueError(f"it calls itself {name[:50]!r}")
        return ".".join(map(str, parse_version(version)))
    except Exception as error:
        raise VmmError(f"{binary} cannot be used: {error}") from error


async def _reach(jail: Jail, process: Process, appearance: Appearance) -> socket.socket:
    """The connected API socket, as soon as Firecracker listens.

    :raises VmmError: it ended before.
    """
    ended = asyncio.ensure_future(process.wait())
    there = asyncio.ensure_future(appearance.wait(Path(j.API_SOCKET).name))
    try:
        await asyncio.wait({ended, there}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise VmmError(f"Firecracker ended with code {ended.result()}")
        while True:
            try:
                return _connect(jail)
            except ConnectionRefusedError:
                # Between bind and listen: there is no event for it, and it lasts microseconds.
                await asyncio.sleep(0.0005)
    finally:
        for waiting in (ended, there):
            waiting.cancel()


def _connect(jail: Jail) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with short(jail.path(j.API_SOCKET)) as path:
            connected.connect(path)
        # The jail is Firecracker's to change: a link there must not lead us to another daemon's socket.
        peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid = struct.unpack("3i", peer)[1]
        if uid != jail.place.uid:
            raise PermissionError(f"the API socket belongs to uid {uid}")
    except BaseException:
        connected.close()
        raise
    return connected
