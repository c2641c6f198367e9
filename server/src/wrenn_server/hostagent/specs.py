"""What this machine has, measured anew for each heartbeat."""

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


async def measure(driver: Driver, *, accelerated: bool, version: str, sandboxes: Path) -> HostSpecs:
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
    )
