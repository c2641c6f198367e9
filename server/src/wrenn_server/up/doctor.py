"""`wrenn doctor`: every prerequisite of this machine, each with its fix."""

import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from wrenn_server.hostagent.network.rules import veth_prefix
from wrenn_server.hostagent.vmm import choice
from wrenn_server.images import build
from wrenn_server.linux import firewall, forwarding, kvm, process
from wrenn_server.up.settings import Settings

DISK_WANTED_MB = 4096
"""Images, one template's memory and a few sandboxes."""
FIRECRACKER = Path("/usr/local/bin/firecracker")
LEGACY_TABLES = Path("/proc/net/ip_tables_names")


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    verdict: Verdict
    detail: str
    fix: str = ""


def ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


async def examine(settings: Settings, *, running: bool = False) -> list[Finding]:
    """All findings, in the order of the list. `running`: our own programs may hold the ports."""
    checks: list[Callable[[Settings], Awaitable[Finding]]] = [
        check_root,
        check_tools,
        check_kvm,
        check_vmm,
        check_tun,
        check_nftables,
        check_forwarding,
        check_way_out,
        check_disk,
        check_kernel,
        check_images,
        check_database,
    ]
    findings = [await check(settings) for check in checks]
    if not running:
        findings += [
            check_port("public port", settings.listen),
            check_port("agent port", settings.agent_listen),
        ]
    return findings


async def check_root(settings: Settings) -> Finding:
    if os.geteuid() == 0:
        return ok("root", "running as root")
    return Finding("root", Verdict.FAIL, "not root", "namespaces and VMs need root: run it with sudo")


async def check_tools(settings: Settings) -> Finding:
    tools = dict([*build.TOOLS, ("ip", "iproute2"), ("nft", "nftables"), ("setpriv", "util-linux")])
    missing = sorted({package for tool, package in tools.items() if shutil.which(tool) is None})
    if not missing:
        return ok("host tools", "all found")
    return Finding(
        "host tools", Verdict.FAIL, f"missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}"
    )


async def check_kvm(settings: Settings) -> Finding:
    kernel, tiny = settings.data_dir / "kernels/vmlinux", settings.data_dir / "kernels/tiny.elf"
    if kernel.exists() and tiny.exists() and os.geteuid() == 0:
        verdict = await choice.probe(settings.run_dir / "kvm.json", kernel, tiny, choice.Binaries.find())
    else:
        verdict = kvm.judge(await asyncio.to_thread(kvm.examine))
    if verdict.usable:
        return ok("KVM", "guests run on it")
    return Finding(
        "KVM",
        Verdict.WARN,
        f"{verdict.reason}: QEMU's software emulation is used",
        "production wants bare metal, or a machine with nested virtualisation",
    )


async def check_vmm(settings: Settings) -> Finding:
    firecracker = shutil.which("firecracker") or (FIRECRACKER if FIRECRACKER.exists() else None)
    qemu = shutil.which("qemu-system-x86_64")
    if firecracker:
        return ok("VMM", f"firecracker at {firecracker}")
    if qemu:
        return Finding(
            "VMM",
            Verdict.WARN,
            f"only qemu at {qemu}: not for several tenants",
            f"put firecracker and jailer (1.12 or later) at {FIRECRACKER}",
        )
    return Finding("VMM", Verdict.FAIL, "neither firecracker nor qemu", "apt-get install qemu-system-x86")


async def check_tun(settings: Settings) -> Finding:
    if Path("/dev/net/tun").exists():
        return ok("TUN/TAP", "/dev/net/tun")
    return Finding("TUN/TAP", Verdict.FAIL, "/dev/net/tun is missing", "modprobe tun")


async def check_nftables(settings: Settings) -> Finding:
    try:
        await process.run(["nft", "list", "tables"], timeout=10)
    except (process.CommandFailed, TimeoutError) as error:
        return Finding("nftables", Verdict.FAIL, str(error), "apt-get install nftables; modprobe nf_tables")
    return ok("nftables", "works")


async def check_forwarding(settings: Settings) -> Finding:
    if forwarding.is_on():
        return ok("IP forwarding", "on")
    return Finding(
        "IP forwarding",
        Verdict.WARN,
        "off; `wrenn up` switches it on",
        "sysctl -w net.ipv4.ip_forward=1 (to keep it: a file in /etc/sysctl.d)",
    )


async def check_way_out(settings: Settings) -> Finding:
    """Docker, for one, drops all that is forwarded and not its own."""
    ours = veth_prefix(settings.tag)
    try:
        ruleset = await process.run(["nft", "list", "ruleset"], timeout=10)
        closed = firewall.closed(ruleset.stdout.decode(errors="replace"), ours)
        if LEGACY_TABLES.exists() and "filter" in LEGACY_TABLES.read_text().split():
            legacy = await process.run(["iptables-legacy", "-S"], timeout=10)
            closed += firewall.closed_legacy(legacy.stdout.decode(errors="replace"), ours)
    except (process.CommandFailed, TimeoutError) as error:
        return Finding(
            "way out", Verdict.WARN, f"unknown: {error}", "see that nothing drops what is forwarded"
        )
    if not closed:
        return ok("way out", "no firewall of this host stops what sandboxes send")
    return Finding(
        "way out",
        Verdict.WARN,
        f"sandboxes cannot reach the internet: {', '.join(chain.chain for chain in closed)} drops what it does"
        " not know (Docker and firewalls set that)",
        "; ".join(command for chain in closed for command in chain.opening) + " (again after each boot)",
    )


async def check_disk(settings: Settings) -> Finding:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // (1024 * 1024)
    if free >= DISK_WANTED_MB:
        return ok("disk space", f"{free} MiB free for {settings.data_dir}")
    return Finding(
        "disk space",
        Verdict.FAIL,
        f"{free} MiB free for {settings.data_dir}, {DISK_WANTED_MB} wanted",
        "free some, or choose another --data-dir",
    )


async def check_kernel(settings: Settings) -> Finding:
    kernels = settings.data_dir / "kernels"
    if (kernels / "vmlinux").exists() and (kernels / "initrd").exists():
        return ok("guest kernel", str(kernels / "vmlinux"))
    return Finding(
        "guest kernel", Verdict.WARN, f"none in {kernels} yet", "`wrenn up` builds it from Debian's package"
    )


async def check_images(settings: Settings) -> Finding:
    found = sorted(path.stem for path in (settings.data_dir / "images").glob("*.ext4"))
    if found:
        return ok("images", ", ".join(found))
    return Finding("images", Verdict.WARN, "none yet", "`wrenn up` builds `minimal`")


async def check_database(settings: Settings) -> Finding:
    if settings.database_url is None:
        return ok("PostgreSQL", "embedded (DATABASE_URL is not set)")
    from wrenn_server.db import pool  # here, because doctor must run where the driver cannot load

    try:
        async with asyncio.timeout(10), pool.connect(settings.database_url):
            return ok("PostgreSQL", "reachable at DATABASE_URL")
    except (OSError, TimeoutError, pool.DatabaseUnavailable) as error:
        return Finding("PostgreSQL", Verdict.FAIL, str(error), "start it, or correct DATABASE_URL")


def check_port(name: str, address: str) -> Finding:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host or "0.0.0.0", int(port)))
        except OSError as error:
            return Finding(
                name,
                Verdict.FAIL,
                f"{address}: {error.strerror}",
                "stop what listens there, or choose another",
            )
    return ok(name, f"{address} is free")
