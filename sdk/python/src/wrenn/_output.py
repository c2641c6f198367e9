"""A command's output: bytes to text as they come, and the end of it kept for the result."""

from __future__ import annotations

import codecs
from collections import deque

MAX_OUTPUT = 16 * 1024 * 1024


class Stream:
    """One of stdout and stderr.

    Keeps the last `limit` bytes: where output is cut, its end says more than its beginning, and the memory that a
    command can claim on this side has to end somewhere.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.truncated = False

    def feed(self, data: bytes) -> str:
        """Takes a piece; gives the text that is complete with it."""
        self._pieces.append(data)
        self._size += len(data)
        while self._size > self._limit:
            self.truncated = True
            excess = self._size - self._limit
            first = self._pieces.popleft()
            if len(first) > excess:
                self._pieces.appendleft(first[excess:])
                self._size -= excess
            else:
                self._size -= len(first)
        return self._decoder.decode(data)

    def flush(self) -> str:
        """At the end: what is left of a character that never became whole."""
        return self._decoder.decode(b"", final=True)

    def kept(self) -> bytes:
        return b"".join(self._pieces)
