"""The last part of what a guest (or its VMM) printed, read from a FIFO with bounds on size and rate."""

import asyncio
import contextlib
import os
from pathlib import Path

KEEP = 64 * 1024
"""Bytes kept of one console."""
SHOWN = 4096
"""Bytes handed out to users."""
_CHUNK = 64 * 1024
_REST = 0.05
"""Seconds between two reads. A guest that prints without end costs us 20 short wake-ups a second; what does not
fit into the FIFO meanwhile is dropped on the writer's side."""


def make_fifo(path: Path) -> int:
    """A new FIFO, opened so that neither side ever sees an end of file, a SIGPIPE or a wait.

    The writer gets the same file description: a full FIFO answers EAGAIN, and the VMM drops the output.
    """
    os.mkfifo(path, 0o600)
    return open_fifo(path)


def open_fifo(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def printable(data: bytes, limit: int = SHOWN) -> str:
    """The last `limit` bytes as text without control characters (no terminal escapes, no forged log lines)."""
    text = data[-limit:].decode(errors="replace").replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else "·" for c in text)


class Tail:
    """Reads a FIFO in the background and keeps the end. Owns the file descriptor."""

    def __init__(self, fd: int, keep: int = KEEP) -> None:
        self._fd = fd
        self._keep = keep
        self._data = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        self._loop.remove_reader(self._fd)
        self._read_once()
        self._timer = self._loop.call_later(_REST, self._watch)

    def _watch(self) -> None:
        self._timer = None
        self._loop.add_reader(self._fd, self._readable)

    def _read_once(self) -> bool:
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        self._data += chunk
        del self._data[: -self._keep]
        return bool(chunk)

    def bytes(self) -> bytes:
        """Everything that is kept, including what has just been written."""
        if self._fd >= 0:
            for _ in range(4):  # a FIFO holds 64 KiB; a guest that keeps printing must not keep us here
                if not self._read_once():
                    break
        return bytes(self._data)

    def close(self) -> None:
        """Stops reading; what was read stays. Idempotent."""
        if self._fd < 0:
            return
        self.bytes()
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(ValueError):
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
