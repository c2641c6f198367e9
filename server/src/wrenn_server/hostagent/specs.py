"""What this machine has, measured anew for each heartbeat."""

import functools
import hashlib
import os
import platform
import shutil
from pathlib import Path

from wrenn_server.hostagent.vmm.base import Driver
from wrenn_server.wire.agent import HostSpecs

MIB = 1 << 20
MEMINFO = Path("/proc/meminfo")


def available_mb() -> int:
    """What programs could still take without anybody's being swapped out (MemAvailable of proc_meminfo(5)), MiB."""
    with MEMINFO.open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024


async def measure(
    driver: Driver, *, accelerated: bool, version: str, sandboxes: Path, store: str = ""
) -> HostSpecs:
    """:raises VmmError: the VMM's binary cannot be run; :raises OSError: the directory is gone"""
    return HostSpecs(
        arch=platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        disk_mb=shutil.disk_usage(sandboxes).free // MIB,
        vmm=driver.name,
        vmm_version=await driver.version(),
        accelerated=accelerated,
        version=version,
        machine=await machine(driver, accelerated=accelerated),
        store=store,
    )


async def machine(driver: Driver, *, accelerated: bool) -> str:
    """What guest memory depends on: the VMM and how it runs guests, and the processor, under emulation for the frequency
    of its time stamps. Equal on hosts that can go on with each other's memory.

    :raises VmmError: the VMM's binary cannot be run"""
    version = await driver.version()
    if driver.name == "firecracker":  # patch releases keep the format of snapshots
        version = ".".join(version.split(".")[:2])
    return f"{platform.machine()}/{driver.name}-{version}/{'kvm' if accelerated else 'tcg'}/{_processor()}"


def installation(data: Path) -> str:
    """Name of a data directory: the same over restarts and reboots, another one for a copy, here or on another machine."""
    try:
        machine_id = Path("/etc/machine-id").read_text().strip()
    except FileNotFoundError:
        machine_id = platform.node()
    return hashlib.sha256(f"{machine_id} {data.stat().st_ino}".encode()).hexdigest()[:32]


@functools.cache
def _processor() -> str:
    """A fingerprint of the first processor: its model and all that it can do."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    names = {
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "flags",
        "CPU implementer",
        "CPU part",
        "Features",
    }
    lines = [line for line in first.splitlines() if line.partition(":")[0].strip() in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
