"""A data directory on a small file system of its own, which can be filled to the last block."""

import asyncio
import contextlib
import errno
import os
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from faults.installation import Installation
from hostagent.process import AgentProcess

SIZE = 4 << 30
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class SmallDisk:
    installation: Installation

    @property
    def _ballast(self) -> Path:
        return self.installation.agent.paths.data / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb") as file:
            status = os.fstatvfs(file.fileno())
            end, step = 0, status.f_bfree * status.f_frsize
            while step >= BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), end, step)
                    end += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(directory: Path, images: Path) -> Generator[SmallDisk]:
    file, data = directory / "disk", directory / "data"
    data.mkdir()
    with file.open("wb") as new:
        new.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", file], check=True)
    subprocess.run(["mount", "-o", "loop", file, data], check=True)
    try:
        disk = SmallDisk(Installation.at(AgentProcess(data, images)))
        asyncio.run(disk.installation.begin())
        yield disk
        asyncio.run(disk.installation.end())
    finally:
        subprocess.run(["umount", "--lazy", data], check=True)
