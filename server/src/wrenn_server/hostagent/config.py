"""Settings of the host agent, from environment names of the platform's documentation."""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from wrenn_server.hostagent.storage.paths import Paths
from wrenn_server.linux.env_file import ConfigError as ConfigError
from wrenn_server.model.address import Address

T = TypeVar("T")

DEFAULT_LISTEN = ":50051"
CREDENTIALS = ("AWS_", "GOOGLE_", "AZURE_")
"""Prefixes of variables that configure object stores."""
DRIVERS = ("auto", "firecracker", "qemu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    data_dir: Path
    """WRENN_DATA_DIR"""
    cp_url: str | None
    """AGENT_CP_URL without a trailing slash; None: the agent works alone and tells nobody."""
    listen: Address
    """AGENT_LISTEN_ADDR"""
    address: str | None
    """`--address` or AGENT_ADDRESS: HOST:PORT under which the control plane reaches us."""
    kernel: Path
    """AGENT_KERNEL_PATH"""
    initrd: Path
    """AGENT_INITRD_PATH, by default `initrd` beside the kernel"""
    images: Path
    """AGENT_IMAGES_PATH"""
    sandboxes: Path
    """AGENT_SANDBOXES_PATH"""
    token_file: Path
    """AGENT_TOKEN_FILE"""
    vmm: str
    """AGENT_VMM: auto, firecracker or qemu"""
    uid_base: int
    """AGENT_UID_BASE: the VM in slot n runs as user id base + n"""
    network: ipaddress.IPv4Network
    """AGENT_NETWORK: cut into one /30 a slot"""
    slots: int
    """AGENT_SLOTS: the most sandboxes at one time"""
    warm: int
    """AGENT_WARM: the most restored VMs that wait for a sandbox to become; 0 for none"""
    spares: int
    """AGENT_SPARES: the most VMMs that wait for a VM, where the VMM can be started ahead; 0 for none"""
    boot_timeout: float
    """AGENT_BOOT_TIMEOUT, seconds: how long a template may take from power-on until envd answers"""
    start_timeout: float
    """AGENT_START_TIMEOUT, seconds: how long a restored guest may take until envd answers"""
    object_store: str | None
    """AGENT_OBJECT_STORE: where paused sandboxes and snapshots go, so that other hosts can go on with them: the path of
    a folder that all hosts share, or a URL such as s3://bucket/prefix; None: they stay on this host alone"""
    emulated_tenants: bool
    """AGENT_EMULATED_TENANTS=yes: let several teams share a host without KVM, where the VMM is no security boundary"""

    @property
    def paths(self) -> Paths:
        # Links are followed here: what VMs are given is opened without following any.
        return Paths.under(
            self.data_dir,
            kernel=self.kernel.resolve(),
            initrd=self.initrd.resolve(),
            images=self.images,
            sandboxes=self.sandboxes,
        )

    @property
    def plain(self) -> bool:
        """Whether the control plane speaks plain HTTP to us: only when it does so over loopback, as it does when it
        knows no address of ours (`CP_HOST_AGENT_ADDR`)."""
        return self.address is None or Address.parse_listen(self.address).is_loopback

    @property
    def bind(self) -> Address:
        """Where the port is opened. Plain HTTP stays inside the machine, whatever AGENT_LISTEN_ADDR allows."""
        if self.plain and not self.listen.is_loopback:
            return Address("127.0.0.1", self.listen.port)
        return self.listen


def load(environ: Mapping[str, str], address: str | None = None) -> Config:
    """:raises ConfigError:"""
    problems: list[str] = []

    def read(name: str, default: str, parse: Callable[[str], T]) -> T:
        text = environ.get(name) or default
        try:
            return parse(text)
        except ValueError as error:
            problems.append(f"{name}={text!r}: {error}")
            return parse(default)

    data_dir = read("WRENN_DATA_DIR", "/var/lib/wrenn", _path)
    kernel = read("AGENT_KERNEL_PATH", f"{data_dir}/kernels/vmlinux", _path)
    reached = address or environ.get("AGENT_ADDRESS") or None
    if reached is not None:
        try:
            if not Address.parse_listen(reached).host:
                raise ValueError("the control plane needs a host name or address in it")
        except ValueError as error:
            problems.append(f"--address {reached!r}: {error}")
            reached = None
    config = Config(
        data_dir=data_dir,
        cp_url=read("AGENT_CP_URL", "", _url),
        listen=read("AGENT_LISTEN_ADDR", DEFAULT_LISTEN, Address.parse_listen),
        address=reached,
        kernel=kernel,
        initrd=read("AGENT_INITRD_PATH", str(kernel.parent / "initrd"), _path),
        images=read("AGENT_IMAGES_PATH", f"{data_dir}/images", _path),
        sandboxes=read("AGENT_SANDBOXES_PATH", f"{data_dir}/sandboxes", _path),
        token_file=read("AGENT_TOKEN_FILE", f"{data_dir}/host-token", _path),
        vmm=read("AGENT_VMM", "auto", _choice(*DRIVERS)),
        uid_base=read("AGENT_UID_BASE", "20000", _integer(1000, 2**31 - 70000)),
        network=read("AGENT_NETWORK", "10.213.0.0/16", _network),
        slots=read("AGENT_SLOTS", "200", _integer(1, 16000)),
        warm=read("AGENT_WARM", "2", _integer(0, 100)),
        spares=read("AGENT_SPARES", "12", _integer(0, 100)),
        boot_timeout=read("AGENT_BOOT_TIMEOUT", "60", _integer(1, 3600)),
        start_timeout=read("AGENT_START_TIMEOUT", "30", _integer(1, 3600)),
        object_store=environ.get("AGENT_OBJECT_STORE") or None,
        emulated_tenants=read("AGENT_EMULATED_TENANTS", "no", _choice("yes", "no")) == "yes",
    )
    if config.slots * 4 > config.network.num_addresses:
        problems.append(
            f"AGENT_NETWORK={config.network} has room for {config.network.num_addresses // 4} slots of four addresses,"
            f" AGENT_SLOTS={config.slots} wants more"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables by which clients of object stores are configured."""
    return {name: value for name, value in environ.items() if name.startswith(CREDENTIALS)}


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return path


def _url(text: str) -> str | None:
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected http://HOST:PORT or https://HOST")
    return text.rstrip("/")


def _network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("expected " + " or ".join(words))
        return text

    return parse
