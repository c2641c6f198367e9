"""What waits for a sandbox, so that no sandbox waits for it: restored VMs, and VMMs that have loaded nothing yet.

A VM comes from a template's memory, has answered once, has rehearsed its introduction, and stands still until it is
taken. A VMM only waits for the state of a VM; it serves forks and resumes, too. Neither has an owner, token or journal:
whatever ends this agent ends it too, and the next agent removes what is left. The one event loop makes taking atomic:
nothing is handed out twice.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Self, TypeVar

import structlog

from wrenn_server.hostagent.guest.client import GuestFailed
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.recipe import Berth, Failed, cancelled
from wrenn_server.hostagent.storage.sealed import Saved, is_sealed
from wrenn_server.hostagent.vmm.base import Vm, VmExit, Vmm, VmmError
from wrenn_server.model.errors import WrennError
from wrenn_server.model.ids import new_sandbox_id

REMEMBERED = 600.0
"""Seconds for which a create is a reason to expect another one like it."""
WINDOW = 30.0
"""Seconds whose creates are expected to come again."""
QUIET = 0.3
"""Seconds after the last create before a VM is restored for the next one: whoever waits now needs the processor more."""
RETRY = 30.0
"""Seconds without a try after one that failed."""

log = structlog.get_logger()


def wanted(creates: Sequence[float], now: float, limit: int) -> int:
    """How many VMs of one kind should wait: as many as were taken in the last `WINDOW`, at least one for as long as
    creates are remembered. Pure.

    :param creates: when there were any, seconds
    """
    if not any(now - at < REMEMBERED for at in creates):
        return 0
    return min(limit, max(1, sum(now - at < WINDOW for at in creates)))


@dataclass(frozen=True, slots=True)
class Ready:
    """What waits in a berth whose name is an id that no sandbox has. Closing its stack ends it and removes what it has."""

    berth: Berth
    stack: AsyncExitStack
    watch: asyncio.Task[VmExit]

    @property
    def name(self) -> str:
        return self.berth.place.id

    @property
    def over(self) -> bool:
        """Its process has ended."""
        return self.watch.done()


def watched(one: Vm | Vmm, name: str, stack: AsyncExitStack) -> asyncio.Task[VmExit]:
    """For `Ready.watch`, as long as the stack is open."""
    watch = asyncio.create_task(one.wait(), name=f"watch {name}")
    stack.push_async_callback(cancelled, watch)
    return watch


R = TypeVar("R", bound=Ready)


@dataclass(slots=True)
class Kind(Generic[R]):
    """What can stand for one another: from the same memory, for the same shape."""

    entry: Entry
    saved: Saved
    creates: deque[float]
    ready: deque[R] = field(default_factory=deque[R])
    not_before: float = 0.0
    """No try until then."""


class Warm(Generic[R]):
    """An async context manager: leaving ends those that still wait."""

    def __init__(
        self,
        host: Host,
        limit: int,
        free_memory: Callable[[], int],
        make: Callable[[str, Entry, Saved], Awaitable[R]],
        kind: Callable[[Entry, Path], Hashable],
        quiet: float = QUIET,
    ) -> None:
        """:param limit: how many may wait at one time; 0: none
        :param free_memory: MiB that the host could still give
        :param make: makes one under that name, which no sandbox has, from what it is given; may raise what starts raise
        :param kind: equal for what one can serve, of a sandbox and the memory that it comes from; may raise OSError
        :param quiet: seconds after the last create before another one is made"""
        self._host, self._limit, self._free_memory = host, limit, free_memory
        self._make, self._kind, self._quiet = make, kind, quiet
        self._kinds: dict[Hashable, Kind[R]] = {}
        self._wake = asyncio.Event()
        self._ends: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._limit:
            self._task = asyncio.create_task(self._run(), name="keep VMs warm")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for kind in self._kinds.values():
            self._drop(kind, 0)
        await asyncio.gather(*self._ends)

    def take(self, entry: Entry, saved: Saved) -> R | None:
        """One that waits, for the caller alone. Whether or not there is one, the next is expected."""
        if not self._limit or saved.memory is None:
            return None
        try:
            key = self._kind(entry, saved.memory)
        except OSError:
            return None  # whoever restores it will say so
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = Kind(entry, saved, deque(maxlen=self._limit))
        elif not is_sealed(kind.saved.overlay.parent):
            kind.saved = saved
        kind.creates.append(self._host.clock.now())
        self._wake.set()
        while kind.ready:
            first = kind.ready.popleft()
            if not first.over:
                return first
            self._end(first)
        return None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            kind = self._next()
            if kind is not None:
                await self._fill(kind)
                continue
            alarm = self._moment()
            async with asyncio.TaskGroup() as group:
                sleep = group.create_task(self._at(alarm)) if alarm is not None else None
                await self._wake.wait()
                if sleep is not None:
                    sleep.cancel()

    def _next(self) -> Kind[R] | None:
        """Lets go what is no longer wanted; what is wanted most and may be made now."""
        found: Kind[R] | None = None
        now = self._host.clock.now()
        for key, kind in list(self._kinds.items()):
            want = wanted(kind.creates, now, self._limit) if is_sealed(kind.saved.overlay.parent) else 0
            self._drop(kind, want)
            if not want:
                del self._kinds[key]
            elif len(kind.ready) < want and (found is None or kind.creates[-1] > found.creates[-1]):
                found = kind
        if found is None or sum(len(kind.ready) for kind in self._kinds.values()) >= self._limit:
            return None
        if now < max(found.not_before, found.creates[-1] + self._quiet):
            return None
        return found if self._free_memory() > 2 * found.entry.memory_mb else None

    async def _at(self, moment: float) -> None:
        await self._host.clock.sleep_until(moment)
        self._wake.set()

    def _moment(self) -> float | None:
        """When there may be something to do without anybody's calling."""
        now = self._host.clock.now()
        moments = (
            moment
            for kind in self._kinds.values()
            for moment in (kind.creates[-1] + self._quiet, kind.creates[-1] + REMEMBERED, kind.not_before)
        )
        return min((moment for moment in moments if moment > now), default=None)

    def _drop(self, kind: Kind[R], most: int) -> None:
        for ended in [one for one in kind.ready if one.over]:
            kind.ready.remove(ended)
            self._end(ended)
        while len(kind.ready) > most:
            self._end(kind.ready.pop())

    async def _fill(self, kind: Kind[R]) -> None:
        name = new_sandbox_id()
        try:
            async with self._host.starts:
                made = await self._make(name, kind.entry, kind.saved)
        except (Failed, GuestFailed, VmmError, WrennError, OSError) as error:
            kind.not_before = self._host.clock.now() + RETRY
            log.warning("nothing can be kept warm", action="warm_failed", name=name, error=str(error))
            return
        except Exception:
            kind.not_before = self._host.clock.now() + RETRY
            log.exception("nothing can be kept warm", action="warm_failed", name=name)
            return
        kind.ready.append(made)
        made.watch.add_done_callback(lambda _: self._wake.set())

    def _end(self, one: R) -> None:
        task = asyncio.create_task(self._ended(one), name=f"end {one.name}")
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _ended(self, one: R) -> None:
        try:
            await one.stack.aclose()
        except Exception:
            log.exception("what was kept warm did not end in order", action="warm_end_failed", name=one.name)
