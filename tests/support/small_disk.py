"""A small file system of its own, which can be filled to the last block."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class SmallDisk:
    path: Path
    """Where it is mounted."""

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

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
def small_disk(directory: Path, size: int) -> Generator[SmallDisk]:
    """:param directory: has room for it; :param size: bytes"""
    file, path = directory / "disk", directory / "data"
    path.mkdir()
    with file.open("wb") as new:
        new.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", file], check=True)
    subprocess.run(["mount", "-o", "loop", file, path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
