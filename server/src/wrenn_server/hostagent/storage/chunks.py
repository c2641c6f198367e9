"""Files as chunks of one size, each named by what is in it. Holes and zeroes are not stored; a chunk that several
files have, or several generations of one, is stored once.

CHUNK was chosen by measuring, see docs/hosts.md. Everything here blocks.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import zstandard

from wrenn_server.linux import files
from wrenn_server.model.errors import Internal

CHUNK = 1 << 20
PACKED_LIMIT = CHUNK + (64 << 10)
"""Bytes that a packed chunk can have: zstd adds little to what does not compress."""
_LEVEL = 1
_PAGE = 4096
_ZEROES = bytes(CHUNK)
_NAME = 64


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a file."""

    size: int
    mode: int
    chunks: dict[int, str]
    """SHA-256 by number; those that are not here are zeroes."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file of JSON. :raises OSError: :raises Internal: `snapshot_damaged`, it makes no sense"""
        try:
            content = msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise Internal(f"{path.name} cannot be read: {error}", code="snapshot_damaged") from error
        content.check()
        return content

    @property
    def digest(self) -> str:
        """Equal for equal content."""
        lines = [f"{self.size}", *(f"{number} {name}" for number, name in sorted(self.chunks.items()))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def check(self) -> None:
        """:raises Internal: `snapshot_damaged`: such a file cannot be"""
        last = -(-self.size // CHUNK)
        if self.size < 0 or any(not 0 <= number < last for number in self.chunks):
            raise Internal("a file of the stored snapshot has chunks beyond its end", code="snapshot_damaged")
        if any(len(name) != _NAME or not name.isalnum() for name in self.chunks.values()):
            raise Internal("a file of the stored snapshot has misnamed chunks", code="snapshot_damaged")


def path_of(name: str) -> str:
    """The object that holds a chunk."""
    return f"chunks/{name[:2]}/{name}"


def with_data(descriptor: int) -> Iterator[int]:
    """Numbers of the chunks of a file that are not wholly in holes."""
    size = os.fstat(descriptor).st_size
    position, last = 0, -1
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        for number in range(max(start // CHUNK, last + 1), -(-position // CHUNK)):
            last = number
            yield number


def read(descriptor: int, number: int) -> bytes:
    """:raises OSError: also when the file has become shorter"""
    return os.pread(descriptor, CHUNK, number * CHUNK)


def is_empty(data: bytes) -> bool:
    """Whether there is nothing but zeroes in a chunk."""
    return data == _ZEROES[: len(data)]


def name_of(data: bytes) -> str | None:
    """None: zeroes."""
    return None if is_empty(data) else hashlib.sha256(data).hexdigest()


def content_of(descriptor: int) -> Content:
    """All of it is read."""
    status = os.fstat(descriptor)
    names = ((number, name_of(read(descriptor, number))) for number in with_data(descriptor))
    found = {number: name for number, name in names if name is not None}
    return Content(size=status.st_size, mode=status.st_mode & 0o777, chunks=found)


def pack(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(data)


def unpack(packed: bytes, name: str) -> bytes:
    """:raises Internal: `snapshot_damaged`, it is not what was stored"""
    try:
        data = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompress(packed, max_output_size=CHUNK)
    except zstandard.ZstdError:
        data = b""
    if hashlib.sha256(data).hexdigest() != name:
        raise Internal(f"chunk {name} of the object store is not what was stored", code="snapshot_damaged")
    return data


def make(path: Path, content: Content) -> None:
    """An empty file of that size and mode. :raises OSError: it is there already"""
    descriptor = files.create(path, content.mode & 0o777)
    try:
        os.ftruncate(descriptor, content.size)
    finally:
        os.close(descriptor)


def write(descriptor: int, number: int, data: bytes) -> None:
    """Into its place in a file of zeroes; pages of zeroes stay holes. :raises OSError:"""
    view = memoryview(data)
    for start, end in _runs(data):
        files.write_at(descriptor, number * CHUNK + start, view[start:end])


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Where there is something in it, in whole pages."""
    begin: int | None = None
    for start in range(0, len(data), _PAGE):
        page = data[start : start + _PAGE]
        if page == _ZEROES[: len(page)]:
            if begin is not None:
                yield begin, start
            begin = None
        elif begin is None:
            begin = start
    if begin is not None:
        yield begin, len(data)
