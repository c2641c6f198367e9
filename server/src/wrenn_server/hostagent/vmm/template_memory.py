"""Memory of templates: one sealed memfd a memory file, which all VMs restored from it map copy-on-write, also those
that were paused since: their snapshots hold a hard link to the same file.

QEMU before 8.2 opens the memory file for writing even for a private mapping. A file that every VM's uid may write
would let one escaped guest change all others; seals make that impossible for everybody, us included.
"""

import asyncio
import contextlib
import fcntl
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.linux.files import copy_sparse

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def new_memory(size: int) -> int:
    """A writable memfd for the memory of a VM that becomes a template."""
    fd = os.memfd_create("guest-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


def seal_copy(path: Path) -> int:
    """A sealed memfd with the content of `path`. Blocks."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        sealed = os.memfd_create("template-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            copy_sparse(source, sealed)
            fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(sealed)
            raise
        return sealed
    finally:
        os.close(source)


Identity = tuple[int, int, int]


def identity(stat: os.stat_result) -> Identity:
    """Equal for all names of one memory file. The number of a deleted file may come back; its time does not."""
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns


@dataclass(slots=True)
class _Entry:
    making: "asyncio.Future[int]"
    size: int
    users: int = 0


class TemplateMemory:
    """The memfds of the templates in use, the least recently used ones given up beyond `limit` bytes. A VM's own
    mapping keeps its memory alive whatever happens here."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Identity, _Entry] = OrderedDict()

    @contextlib.asynccontextmanager
    async def use(self, path: Path) -> AsyncGenerator[int, None]:
        """The memfd of a memory file, valid inside the context. Made by the first who asks, the others wait.

        :raises OSError: the file is missing, or memory is short.
        """
        stat = os.stat(path)
        name = identity(stat)
        entry = self._entries.get(name)
        if entry is None or (entry.making.done() and entry.making.exception()):
            making = asyncio.ensure_future(asyncio.to_thread(seal_copy, path))
            entry = self._entries[name] = _Entry(making, stat.st_blocks * 512)
        self._entries.move_to_end(name)
        entry.users += 1
        try:
            self._shrink()
            yield await asyncio.shield(entry.making)
        finally:
            entry.users -= 1
            if self._entries.get(name) is not entry:
                self._drop(entry)

    def close(self) -> None:
        """Gives up all of it."""
        for name in list(self._entries):
            self._forget(name)

    def _forget(self, name: Identity) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._drop(entry)

    def _shrink(self) -> None:
        total = sum(entry.size for entry in self._entries.values())
        for name, entry in list(self._entries.items()):
            if total <= self._limit:
                return
            if entry.users == 0:
                total -= entry.size
                self._forget(name)

    @staticmethod
    def _drop(entry: _Entry) -> None:
        if entry.users:
            return  # the last user closes it
        if entry.making.done():
            _close_result(entry.making)
        else:
            entry.making.add_done_callback(_close_result)


def _close_result(making: "asyncio.Future[int]") -> None:
    if not making.cancelled() and making.exception() is None:
        os.close(making.result())
