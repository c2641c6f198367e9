"""A file that comes out of the object store chunk by chunk while it is in use: what is touched first, then the rest.

```
<directory>/content.json   what was in it at first
<directory>/here           a byte for each chunk: not zero, the file has it
```
A chunk is in the file before `here` says so, and `here` says so before anything of the user's is written into it. What
dies in between leaves at most a chunk to be fetched again that nobody has written. That holds for a dead agent; after a
dead host the file is worthless, as the disk of every VM that ran there.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Self

import msgspec
import structlog

from wrenn_server.hostagent.storage import chunks
from wrenn_server.hostagent.storage.chunks import CHUNK, Content
from wrenn_server.hostagent.storage.threads import each, to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Internal, Unavailable

CONTENT, HERE = "content.json", "here"
AT_ONCE = 3
"""Chunks on their way that nobody has asked for yet; each takes some 2 MiB of memory."""
FIRST_RETRY, LONGEST_RETRY = 0.5, 15.0
"""Seconds between tries while the store fails or the disk is full."""

Fetch = Callable[[str], Awaitable[bytes]]
"""Gives a chunk by its name, proven. :raises Unavailable: not now; :raises Internal: the store has lost or changed it"""

log = structlog.get_logger()


def prepare(path: Path, directory: Path, content: Content, *, owner: int) -> None:
    """An empty file for `LazyFile.open`, in the place of one that may be there. Blocks.

    :raises OSError:"""
    files.remove(path)
    files.remove(directory)
    directory.mkdir(mode=0o700)
    chunks.make(path, content)
    os.chown(path, owner, owner)
    path.chmod(0o600)
    (directory / CONTENT).write_bytes(msgspec.json.encode(content))
    (directory / HERE).write_bytes(bytes(-(-content.size // CHUNK)))


class LazyFile:
    """Made by `open`; `close` it. Calls may overlap; what overlapping writes of the same bytes leave is one of them."""

    def __init__(self, file: int, here: int, content: Content, missing: set[int], fetch: Fetch) -> None:
        self.size = content.size
        self.fetched = 0
        """Bytes, by this process."""
        self._file = file
        self._here = here
        self._names = content.chunks
        self._missing = missing
        self._fetch = fetch
        self._coming: dict[int, asyncio.Task[None]] = {}

    @classmethod
    def open(cls, path: Path, directory: Path, fetch: Fetch) -> Self:
        """Blocks. :raises OSError: also when what lies there is not what `prepare` made"""
        try:
            content = Content.read(directory / CONTENT)
        except Internal as error:
            raise OSError(f"{directory / CONTENT} cannot be read: {error}") from error
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            here = os.open(directory / HERE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            os.close(file)
            raise
        marks = os.pread(here, -(-content.size // CHUNK), 0)
        missing = {number for number in content.chunks if not marks[number : number + 1].strip(b"\0")}
        return cls(file, here, content, missing, fetch)

    @property
    def missing(self) -> int:
        """Bytes that are not here yet, about."""
        return len(self._missing) * CHUNK

    async def read(self, offset: int, length: int) -> bytes:
        """Waits as long as the store fails.

        :raises Internal: `snapshot_damaged`; :raises OSError:"""
        await self._need(offset, length)
        return await to_its_end(os.pread, self._file, length, offset)

    async def write(self, offset: int, data: bytes) -> None:
        """As `read`. What it overwrites is fetched, too: a chunk that comes later would undo it."""
        await self._need(offset, len(data))
        await to_its_end(files.write_at, self._file, offset, data)

    async def fill(self) -> None:
        """Fetches everything; returns when it is here.

        :raises Internal: `snapshot_damaged`, a chunk cannot be had; all others are here"""
        damage: list[Internal] = []

        async def one(number: int) -> None:
            try:
                await self._bring(number)
            except Internal as error:
                damage.append(error)

        await each(sorted(self._missing), one, at_once=AT_ONCE)
        if damage:
            raise damage[0]

    async def close(self) -> None:
        """Nothing is written any more when it returns."""
        for task in self._coming.values():
            task.cancel()
        await asyncio.gather(*self._coming.values(), return_exceptions=True)
        os.close(self._here)
        os.close(self._file)

    async def _need(self, offset: int, length: int) -> None:
        for number in range(offset // CHUNK, -(-(offset + length) // CHUNK)):
            await self._bring(number)

    async def _bring(self, number: int) -> None:
        if number not in self._missing:
            return
        coming = self._coming.get(number)
        if coming is None:
            coming = self._coming[number] = asyncio.create_task(self._place(number), name=f"chunk {number}")
            coming.add_done_callback(partial(self._came, number))
        await asyncio.shield(coming)  # others wait for it, too

    def _came(self, number: int, task: asyncio.Task[None]) -> None:
        del self._coming[number]
        if not task.cancelled():
            task.exception()  # seen, even when nobody waits any more

    async def _place(self, number: int) -> None:
        pause = FIRST_RETRY
        while True:
            try:
                data = await self._fetch(self._names[number])
                await to_its_end(self._put, number, data)
            except (Unavailable, OSError) as error:
                log.warning("a chunk must wait", action="chunk_failed", error=str(error), retry_sec=pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, LONGEST_RETRY)
            else:
                self._missing.discard(number)
                self.fetched += len(data)
                return

    def _put(self, number: int, data: bytes) -> None:
        chunks.write(self._file, number, data[: self.size - number * CHUNK])
        crash_point("lazy.placed")
        files.write_at(self._here, number, b"\1")
        crash_point("lazy.marked")
