"""Work inside another network namespace, and TAP devices.

setns(2) binds one thread, not the process; so each piece of work gets a thread of its own that ends with it and
never serves anything else.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # sched.h
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)


async def in_own_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a new thread that may change its namespaces. A cancelled caller still waits for the end, since
    the work's effects must be known to be undone."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def target() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - carried over to the waiting task
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=target, name="netns", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await done
        raise


def enter(namespace: int | Path) -> None:
    """Moves the calling thread into a network namespace, given as path or open file descriptor.

    :raises OSError: it does not exist, or we lack CAP_SYS_ADMIN.
    """
    if isinstance(namespace, Path):
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(fd)
        finally:
            os.close(fd)
        return
    if _libc.setns(namespace, _CLONE_NEWNET):
        _fail("setns")


def new() -> int:
    """An empty network namespace, kept by the returned file descriptor; the calling thread is moved into it."""
    if _libc.unshare(_CLONE_NEWNET):
        _fail("unshare")
    return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_tap(name: str) -> int:
    """Attaches to a persistent TAP of the calling thread's namespace. QEMU wants the virtio header (facts of
    linux/if_tun.h: IFF_VNET_HDR) and no packet information.

    :raises OSError: no such device, EBUSY when another process is attached.
    """
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(
            tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        )
    except BaseException:
        os.close(tap)
        raise
    return tap


def _fail(call: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, f"{call}: {os.strerror(code)}")
