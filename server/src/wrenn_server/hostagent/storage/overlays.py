"""Overlays: the writable disk of one sandbox, a sparse ext4 file that belongs to the VM's user.

The host never mounts one: a guest writes them. An empty one is made by mke2fs once for each size and cloned after
that, by reflink where the file system can and else hole by hole (an empty one of 5 GiB has 3 MiB of data and takes 1 ms).
"""

import asyncio
from pathlib import Path

from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.process import run

LABEL = "wrenn-overlay"
"""The guest's init finds its disk by it, whatever order the VMM has them in."""
VERSION = 1
"""Of what `_OPTIONS` make; a blank of another version is not used."""
_OPTIONS = "lazy_itable_init=1,lazy_journal_init=1,discard,root_owner=0:0"
"""Tables that nobody has written stay holes, and so cost nothing in any copy."""
_TIMEOUT = 60.0


class Overlays:
    def __init__(self, blanks: Path) -> None:
        """:param blanks: directory for the empty ones, on the file system of the sandboxes so that reflinks work"""
        self._blanks = blanks
        self._making: dict[int, asyncio.Lock] = {}

    async def create(self, target: Path, disk_mb: int, *, owner: int) -> None:
        """An empty file system of that size. `target` must not exist.

        :raises OSError: :raises CommandFailed: mke2fs failed or is not installed"""
        await self.clone(await self._blank(disk_mb), target, owner=owner)

    async def clone(self, source: Path, target: Path, *, owner: int) -> None:
        """An independent copy, mode 0600. The source must not be written meanwhile; `target` must not exist.

        :raises OSError: nothing is left behind"""
        await to_its_end(files.clone, source, target, owner=owner)

    async def _blank(self, disk_mb: int) -> Path:
        path = self._blanks / f"{disk_mb}-{VERSION}.ext4"
        async with self._making.setdefault(disk_mb, asyncio.Lock()):
            if not path.exists():
                await self._format(path, disk_mb)
        return path

    async def _format(self, path: Path, disk_mb: int) -> None:
        new = path.with_name(path.name + ".new")
        self._blanks.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        try:
            await run(
                [
                    "mke2fs",
                    "-q",
                    "-t",
                    "ext4",
                    "-m",
                    "0",
                    "-L",
                    LABEL,
                    "-E",
                    _OPTIONS,
                    str(new),
                    f"{disk_mb}M",
                ],
                timeout=_TIMEOUT,
            )
            await to_its_end(files.fsync_file, new)
            new.rename(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
