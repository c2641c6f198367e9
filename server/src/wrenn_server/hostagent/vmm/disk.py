"""Files of snapshots: made exclusively, copied cheaply, never begun without the room for them."""

import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h
_COPY_CHUNK = 16 << 20


def create(path: Path) -> int:
    """A new file of root's alone."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def require_space(directory: Path, needed: int) -> None:
    """:raises OSError: ENOSPC, before anything was written."""
    stat = os.statvfs(directory)
    if stat.f_bavail * stat.f_frsize < needed:
        raise OSError(errno.ENOSPC, f"{needed >> 20} MiB are needed for a memory snapshot", str(directory))


def copy(source: int, target: int) -> None:
    """Gives an empty file the content of another: shared blocks where the file system can, else without the holes."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM}:
            raise
        copy_sparse(source, target)


def copy_sparse(source: int, target: int) -> int:
    """Copies a whole file into an empty one, holes stay holes. Returns the bytes that were copied."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    copied = position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        position = start
        while position < end:
            count = os.sendfile(target, source, position, min(_COPY_CHUNK, end - position))
            if count == 0:
                raise OSError(errno.EIO, f"the file ends at {position} of {size} bytes")
            position += count
        copied += end - start
    return copied
