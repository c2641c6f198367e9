"""Files that must survive a crash, be copied for nothing, or come from somebody we do not trust.

Everything here blocks; callers on an event loop use a thread for what touches more than a few pages.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h
_CHUNK = 64 << 20
_NO_REFLINK = {
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EPERM,
    errno.ETXTBSY,
}
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM}


class Untrusted(Exception):
    """A file that an unprivileged program made is not the plain file that it should be."""


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file so that after a power cut it is the old one or the new one, whole.

    :raises OSError: the old one is untouched"""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = create(temporary, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def create(path: Path, mode: int = 0o600) -> int:
    """A new file, open for reading and writing, whatever the umask. :raises FileExistsError: also for a link"""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    os.fchmod(descriptor, mode)
    return descriptor


def write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """All of it. :raises OSError:"""
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def fsync_directory(path: Path) -> None:
    _fsync(path, os.O_DIRECTORY)


def fsync_file(path: Path) -> None:
    _fsync(path, 0)


def fsync_tree(path: Path) -> None:
    """Every plain file and directory under it, leaves first."""
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            entry = Path(directory, name)
            if stat.S_ISREG(entry.lstat().st_mode):
                fsync_file(entry)
        fsync_directory(Path(directory))


def clone(source: Path, target: Path, *, owner: int | None = None, mode: int = 0o600) -> None:
    """An independent copy: shared blocks where the file system can, else data without the holes.

    :param owner: user and group id of the copy
    :raises FileExistsError: the target is there; :raises OSError: no target is left behind"""
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        writer = create(target, mode)
        try:
            if owner is not None:
                os.fchown(writer, owner, owner)
            copy(reader, writer)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def copy(source: int, target: int) -> None:
    """Gives an empty file the content of another, by reflink or without the holes."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_REFLINK:
            raise
        copy_sparse(source, target)


def copy_sparse(source: int, target: int) -> int:
    """Copies a whole file into an empty one; holes stay holes. Returns the number of bytes that were data."""
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
        position = min(os.lseek(source, start, os.SEEK_HOLE), size)
        _copy_range(source, target, start, position)
        copied += position - start
    return copied


def _copy_range(source: int, target: int, position: int, end: int) -> None:
    in_kernel = True
    while position < end:
        wanted = min(_CHUNK, end - position)
        try:
            if in_kernel:
                count = os.copy_file_range(source, target, wanted, position, position)
            else:
                os.lseek(target, position, os.SEEK_SET)
                count = os.sendfile(target, source, position, wanted)
        except OSError as error:
            if not in_kernel or error.errno not in _NO_KERNEL_COPY:
                raise
            in_kernel = False  # e.g. between a disk and tmpfs on kernels before 5.19
            continue
        if count == 0:
            raise OSError(
                errno.EIO, f"the file became shorter while it was copied: {position} of {end} bytes"
            )
        position += count


def move(source: Path, target: Path) -> None:
    """By rename; where that cannot be, by copy. `target` is replaced."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        status = source.lstat()
        target.unlink(missing_ok=True)
        clone(source, target, owner=status.st_uid, mode=stat.S_IMODE(status.st_mode))
        source.unlink()


def remove(path: Path) -> None:
    """Whatever it is, with everything in it, without ever following a link. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def open_untrusted(path: Path, *, uid: int) -> int:
    """Opens for reading a file that the unprivileged user `uid` (or root) made in a directory of its own: no link to
    elsewhere, no second name, no device or pipe that would block or have effects.

    :raises Untrusted: it is something else; :raises FileNotFoundError:"""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise Untrusted(f"{path} is a link or a socket") from error
        raise
    problem = _problem(os.fstat(descriptor), uid)
    if problem is not None:
        os.close(descriptor)
        raise Untrusted(f"{path} {problem}")
    return descriptor


def _problem(status: os.stat_result, uid: int) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "is not a plain file"
    if status.st_nlink != 1:
        return f"has {status.st_nlink} names"
    if status.st_uid not in {0, uid}:
        return f"belongs to user {status.st_uid}"
    return None


def free_bytes(directory: Path) -> int:
    """What an ordinary user could still write there."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def require_space(directory: Path, needed: int, what: str) -> None:
    """:param what: needs so many bytes
    :raises OSError: ENOSPC with the numbers, before anything was written
    """
    free = free_bytes(directory)
    if free < needed:
        numbers = f"{what} needs {needed / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free"
        raise OSError(errno.ENOSPC, numbers, str(directory))


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
