"""What a process has changed in its private (copy-on-write) mapping of a file.

Sources: proc(5) for maps and mem; Documentation/admin-guide/mm/pagemap.rst for pagemap and PAGEMAP_SCAN.
"""

import array
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.linux.files import write_at

PAGE = mmap.PAGESIZE
_PAGEMAP_SCAN = 0xC0606610  # since Linux 6.7
_SCAN = struct.Struct("12Q")
_REGION = struct.Struct("3Q")
_RECORD = struct.Struct("<QQ")
_REGIONS = 4096
_IS_FILE, _IS_PRESENT, _IS_SWAPPED = 1 << 2, 1 << 3, 1 << 4
_BIT_FILE, _BIT_SWAPPED, _BIT_PRESENT = 1 << 61, 1 << 62, 1 << 63
_ENTRIES = 1 << 16
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Mapping:
    start: int
    end: int
    offset: int
    """In the file."""


def mappings(pid: int, inode: int) -> list[Mapping]:
    """Where a process has mapped the file with this inode number privately.

    :raises OSError: no such process.
    """
    found: list[Mapping] = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, permissions, offset, _, number, *_ = line.split(maxsplit=5)
        if int(number) == inode and permissions[3] == "p":
            start, _, end = addresses.partition("-")
            found.append(Mapping(int(start, 16), int(end, 16), int(offset, 16)))
    return found


def changed(pagemap: int, mapping: Mapping, *, scan: bool = True) -> Iterator[tuple[int, int]]:
    """Address ranges of a private mapping that are the process's own and no longer the file's.

    :param pagemap: open `/proc/PID/pagemap`; :param scan: False: as on kernels without PAGEMAP_SCAN.
    """
    if scan:
        try:
            yield from _scan(pagemap, mapping)
        except OSError as error:
            if error.errno not in {errno.ENOTTY, errno.EINVAL}:
                raise
        else:
            return
    yield from _walk(pagemap, mapping)


def dump(pid: int, inode: int, target: int) -> int:
    """Writes what a process has changed in its private mapping of a file into the empty file `target`: records of
    offset and length (64 bit each) and so many bytes. The process must stand still. Returns the bytes written.

    Records and not a sparse file, because file systems are free to round holes or to make holes of zeroes.
    :raises OSError: the process has ended, or the disk is full.
    """
    written = 0
    for offset, piece in _pieces(pid, inode):
        header = _RECORD.pack(offset, len(piece))
        _write_all(target, header)
        _write_all(target, piece)
        written += len(header) + len(piece)
    return written


def overlay(pid: int, inode: int, target: int) -> None:
    """Writes the changes over a complete copy of the file, at their offsets.

    :raises OSError: as `dump`, and where the process maps more than the file has.
    """
    size = os.fstat(target).st_size
    for offset, piece in _pieces(pid, inode):
        if offset + len(piece) > size:
            raise OSError(errno.EIO, f"process {pid} maps more than the {size} bytes of the file")
        write_at(target, offset, piece)


def apply(pid: int, inode: int, source: int) -> None:
    """Writes what `dump` wrote into another process's private mapping of the same content.

    :raises OSError: the process has ended, or the file is damaged.
    """
    places = mappings(pid, inode)
    memory = os.open(f"/proc/{pid}/mem", os.O_WRONLY | os.O_CLOEXEC)
    try:
        with open(os.dup(source), "rb", buffering=_CHUNK) as records:
            records.seek(0)
            while header := records.read(_RECORD.size):
                if len(header) < _RECORD.size:
                    raise OSError(errno.EIO, "a record of changed memory is cut off")
                offset, length = _RECORD.unpack(header)
                if not 0 < length <= _CHUNK or len(piece := records.read(length)) < length:
                    raise OSError(errno.EIO, "a record of changed memory is damaged")
                write_at(memory, _address(places, offset, length), piece)
    finally:
        os.close(memory)


def _pieces(pid: int, inode: int) -> Iterator[tuple[int, memoryview]]:
    """Offsets and contents of what was changed; a content is valid until the next is asked for."""
    buffer = memoryview(bytearray(_CHUNK))
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for mapping in mappings(pid, inode):
            for start, end in changed(pagemap, mapping):
                address = start
                while address < end:
                    count = os.preadv(memory, [buffer[: min(end - address, _CHUNK)]], address)
                    if count == 0:
                        raise OSError(errno.ESRCH, f"process {pid} has ended")
                    yield address - mapping.start + mapping.offset, buffer[:count]
                    address += count
    finally:
        os.close(pagemap)
        os.close(memory)


def _address(places: list[Mapping], offset: int, length: int) -> int:
    for mapping in places:
        if mapping.offset <= offset and offset + length <= mapping.offset + mapping.end - mapping.start:
            return mapping.start + offset - mapping.offset
    raise OSError(errno.EIO, f"no mapping has room for {length} bytes of changed memory at {offset}")


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _scan(pagemap: int, mapping: Mapping) -> Iterator[tuple[int, int]]:
    regions = array.array("Q", bytes(_REGIONS * _REGION.size))
    start = mapping.start
    while start < mapping.end:
        argument = bytearray(
            _SCAN.pack(
                _SCAN.size, 0, start, mapping.end, 0, regions.buffer_info()[0], _REGIONS, 0,
                _IS_FILE, _IS_FILE, _IS_PRESENT | _IS_SWAPPED, _IS_FILE,
            )
        )  # fmt: skip
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        for index in range(count):
            yield regions[index * 3], regions[index * 3 + 1]
        if count < _REGIONS:
            return
        # Not the kernel's `walk_end`: it is stale where the walk ended between two fillings of an inner buffer.
        start = regions[_REGIONS * 3 - 2]


def _walk(pagemap: int, mapping: Mapping) -> Iterator[tuple[int, int]]:
    begin: int | None = None
    address = mapping.start
    while address < mapping.end:
        entries = array.array("Q")
        wanted = min(_ENTRIES, (mapping.end - address) // PAGE)
        entries.frombytes(os.pread(pagemap, wanted * 8, address // PAGE * 8))
        if not entries:
            break
        for entry in entries:
            own = entry & (_BIT_PRESENT | _BIT_SWAPPED) and not entry & _BIT_FILE
            if own and begin is None:
                begin = address
            elif not own and begin is not None:
                yield begin, address
                begin = None
            address += PAGE
    if begin is not None:
        yield begin, address
