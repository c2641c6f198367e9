"""Bind mounts of single files, for what cannot be hard-linked across file systems. Source: mount(2), umount2(2)."""

import ctypes
import errno
import os
from pathlib import Path

_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_NOSUID, _MS_NODEV = 1, 32, 4096, 2, 4
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_libc = ctypes.CDLL(None, use_errno=True)


def bind(source: Path, target: Path, *, read_only: bool) -> None:
    """Binds a file onto an existing one.

    :raises OSError: the kernel refuses.
    """
    _mount(os.fsencode(source), target, _MS_BIND)
    if read_only:
        try:
            _mount(None, target, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
        except BaseException:
            unbind(target)
            raise


def unbind(target: Path) -> None:
    """Takes a mount away, also one in use; nothing happens where there is none."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW):
        code = ctypes.get_errno()
        if code not in {errno.EINVAL, errno.ENOENT}:
            raise OSError(code, f"umount: {os.strerror(code)}", str(target))


def _mount(source: bytes | None, target: Path, flags: int) -> None:
    if _libc.mount(source, os.fsencode(target), None, flags, None):
        code = ctypes.get_errno()
        raise OSError(code, f"mount: {os.strerror(code)}", str(target))
