"""Waiting for a file to appear, by inotify(7)."""

import asyncio
import ctypes
import os
from pathlib import Path

_IN_CREATE, _IN_MOVED_TO = 0x100, 0x80
_libc = ctypes.CDLL(None, use_errno=True)


class Appearance:
    """Watches a directory from its creation on; a context manager. Make it before you start who makes the file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if (
            self._fd < 0
            or _libc.inotify_add_watch(self._fd, os.fsencode(directory), _IN_CREATE | _IN_MOVED_TO) < 0
        ):
            code = ctypes.get_errno()
            self.close()
            raise OSError(code, f"inotify: {os.strerror(code)}", str(directory))

    def __enter__(self) -> "Appearance":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def wait(self, name: str) -> None:
        """Returns when `name` is in the directory."""
        loop = asyncio.get_running_loop()
        while not os.path.lexists(self._directory / name):
            changed = asyncio.Event()
            loop.add_reader(self._fd, changed.set)
            try:
                await changed.wait()
                os.read(self._fd, 65536)
            finally:
                loop.remove_reader(self._fd)
