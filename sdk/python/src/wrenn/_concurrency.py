"""The few things that differ between the two flavours; the generator turns the first name of each pair into the second.

```
AsyncLock, AsyncWorker, async_pieces, async_scope, async_settled, async_sleep
     Lock,      Worker,       pieces,       scope,       settled,       sleep
```
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Protocol, Self


class SupportsRead(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


PIECE = 256 * 1024
JOIN = 5.0
"""Seconds that a thread may outlive the call it works for."""

AsyncLock = asyncio.Lock
Lock = threading.Lock
async_sleep = asyncio.sleep
sleep = time.sleep


def async_scope() -> object:
    """Connections belong to an event loop: clients are shared within one only."""
    return asyncio.get_running_loop()


def scope() -> object:
    return None


async def async_settled(value: object) -> None:
    """Waits for what a callback returned, if it is something to wait for."""
    if inspect.isawaitable(value):
        await value


def settled(value: object) -> None:
    """A callback that returns has finished."""


async def async_pieces(file: SupportsRead) -> AsyncIterator[bytes]:
    """Reads a file to its end beside the event loop."""
    while data := await asyncio.to_thread(file.read, PIECE):
        yield data


def pieces(file: SupportsRead) -> Iterator[bytes]:
    while data := file.read(PIECE):
        yield data


class AsyncWorker:
    """Runs a function beside the body of `async with`; at the end of the body it is cancelled and awaited."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # looked at, so that asyncio does not complain; the body knows what matters


class Worker:
    """The same with a thread. It cannot be cancelled: the work must end by itself soon after the body."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._work, name="wrenn-worker", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._thread.join(JOIN)
