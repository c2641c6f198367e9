"""Restored VMs that wait for a sandbox to become, so that a create need not wait for a restore.

Each comes from a template's memory, has answered once, has rehearsed its introduction, and stands still until it is
taken. It has no owner, token or journal: whatever ends this agent ends it too, and the next agent removes what is left.
The one event loop makes taking atomic: no VM is handed out twice.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog

from wrenn_server.hostagent.guest.client import GuestFailed
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.recipe import Failed
from wrenn_server.hostagent.sandbox.standby import Restored, restored
from wrenn_server.hostagent.storage.sealed import Saved, is_sealed
from wrenn_server.hostagent.vmm.base import VmmError
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


@dataclass(slots=True)
class Kind:
    """VMs that can stand for one another: same template, image and shape."""

    entry: Entry
    saved: Saved
    creates: deque[float]
    ready: deque[Restored] = field(default_factory=deque[Restored])
    not_before: float = 0.0
    """No try until then."""


class Warm:
    """An async context manager: leaving ends the VMs that still wait."""

    def __init__(
        self,
        host: Host,
        limit: int,
        free_memory: Callable[[], int],
        quiet: float = QUIET,
    ) -> None:
        """:param limit: VMs that may wait at one time; 0: none
        :param free_memory: MiB that the host could still give"""
        self._host, self._limit, self._free_memory = host, limit, free_memory
        self._quiet = quiet
        self._kinds: dict[Path, Kind] = {}
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

    def take(self, entry: Entry, saved: Saved) -> Restored | None:
        """One that waits, for the caller alone. Whether or not there is one, the next is expected."""
        if not self._limit or saved.memory is None:
            return None
        kind = self._kinds.get(saved.overlay)
        if kind is None:
            kind = self._kinds[saved.overlay] = Kind(entry, saved, deque(maxlen=self._limit))
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

    def _next(self) -> Kind | None:
        """Lets go what is no longer wanted; what is wanted most and may be made now."""
        now, found = self._host.clock.now(), None
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

    def _drop(self, kind: Kind, most: int) -> None:
        for ended in [one for one in kind.ready if one.over]:
            kind.ready.remove(ended)
            self._end(ended)
        while len(kind.ready) > most:
            self._end(kind.ready.pop())

    async def _fill(self, kind: Kind) -> None:
        name = new_sandbox_id()
        try:
            async with self._host.starts:
                made = await restored(self._host, name, kind.entry, kind.saved)
        except (Failed, GuestFailed, VmmError, WrennError, OSError) as error:
            kind.not_before = self._host.clock.now() + RETRY
            log.warning("a VM cannot be kept warm", action="warm_failed", name=name, error=str(error))
            return
        except Exception:
            kind.not_before = self._host.clock.now() + RETRY
            log.exception("a VM cannot be kept warm", action="warm_failed", name=name)
            return
        kind.ready.append(made)
        made.watch.add_done_callback(lambda _: self._wake.set())

    def _end(self, one: Restored) -> None:
        task = asyncio.create_task(self._ended(one), name=f"end {one.name}")
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _ended(self, one: Restored) -> None:
        try:
            await one.stack.aclose()
        except Exception:
            log.exception("a warm VM did not end in order", action="warm_end_failed", name=one.name)
