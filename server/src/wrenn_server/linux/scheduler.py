"""How the kernel shares processors among programs: sched(7), sched_setattr(2)."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Generator

_libc = ctypes.CDLL(None, use_errno=True)
_SCHED_SETATTR = 314
"""Number of the system call on x86-64; the C library has no name for it before glibc 2.41."""
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""size, policy, flags, nice, priority, runtime, deadline, period: version 0 of `struct sched_attr`."""


@contextlib.contextmanager
def batch(turn: float) -> Generator[None]:
    """What this thread starts meanwhile, and all its threads, is taken for programs that compute more than they wait: when
    they wake up they interrupt nobody, and they keep a processor for `turn` seconds once they have it, unless a program
    with shorter turns wants it. Where that is forbidden, as it may be in a container, they are like any others.

    :param turn: 0.0001 to 0.1; kernels before Linux 6.12 leave turns as they are
    :raises OSError: the kernel does not know what is asked of it"""
    try:
        _set(os.SCHED_BATCH, turn)
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        _set(os.SCHED_OTHER, 0)


def _set(policy: int, turn: float) -> None:
    """For the calling thread; 0: the kernel's own idea of a turn."""
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, 0, 0, round(turn * 1e9), 0, 0)
    if _libc.syscall(_SCHED_SETATTR, 0, attributes, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"sched_setattr: {os.strerror(code)}")
