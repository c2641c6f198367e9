"""Overlays: sparse ext4 files, copied by reflink where the file system can, hole by hole elsewhere."""

import asyncio
import errno
import fcntl
import os
from pathlib import Path

from wrenn_server.linux.process import run

LABEL = "wrenn-overlay"
_FICLONE = 0x40049409  # linux/fs.h
_CHUNK = 64 << 20


async def create(path: Path, disk_mb: int, owner: int) -> None:
    """An empty file system of that size, for the user id `owner`.

    :raises CommandFailed: :raises OSError:"""
    path.touch(mode=0o600)
    os.chown(path, owner, owner)
    os.truncate(path, disk_mb << 20)
    # Lazy: tables that nobody has written are holes, so a fresh disk costs next to nothing, here and in each copy.
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
    await run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", LABEL, "-E", options, str(path)], timeout=60
    )


async def clone(source: Path, target: Path, owner: int) -> None:
    """An independent copy for the user id `owner`; `target` must not exist.

    :raises OSError:"""
    await asyncio.to_thread(_clone, source, target, owner)


def move(source: Path, target: Path) -> None:
    """:raises OSError:"""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _clone(source, target, 0)
        source.unlink()


def _clone(source: Path, target: Path, owner: int) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchown(writer, owner, owner)
            try:
                fcntl.ioctl(writer, _FICLONE, reader)
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY}:
                    raise
                _copy_sparse(reader, writer)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_sparse(reader: int, writer: int) -> None:
    size = os.fstat(reader).st_size
    os.ftruncate(writer, size)
    position = 0
    while position < size:
        try:
            position = os.lseek(reader, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(reader, position, os.SEEK_HOLE)
        while position < end:
            copied = os.copy_file_range(reader, writer, min(_CHUNK, end - position), position, position)
            if copied == 0:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            position += copied
