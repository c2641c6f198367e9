"""Waiting for what happens in directories, by inotify(7)."""

import asyncio
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

_IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_CREATE = 0x8, 0x80, 0x100
_libc = ctypes.CDLL(None, use_errno=True)


class _Watch:
    """Watches directories from its creation on; a context manager."""

    def __init__(self, directories: Iterable[Path], mask: int) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for directory in directories:
            if self._fd < 0 or _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
                code = ctypes.get_errno()
                self.close()
                raise OSError(code, f"inotify: {os.strerror(code)}", str(directory))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _event(self) -> None:
        loop = asyncio.get_running_loop()
        happened = asyncio.Event()
        loop.add_reader(self._fd, happened.set)
        try:
            await happened.wait()
        finally:
            loop.remove_reader(self._fd)
        self._drain()

    def _drain(self) -> None:
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            pass


class Appearance(_Watch):
    """A file that appears. Make it before you start who makes the file."""

    def __init__(self, directory: Path) -> None:
        super().__init__([directory], _IN_CREATE | _IN_MOVED_TO)
        self._directory = directory

    async def wait(self, name: str) -> None:
        """Returns when `name` is in the directory."""
        while not os.path.lexists(self._directory / name):
            await self._event()


class Changes(_Watch):
    """Files that are written or replaced."""

    def __init__(self, directories: Iterable[Path]) -> None:
        super().__init__(directories, _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE)

    async def wait(self) -> None:
        """Returns when something changed since the creation, the last `wait` or `clear`."""
        await self._event()

    def clear(self) -> None:
        """Forgets what happened until now."""
        self._drain()
