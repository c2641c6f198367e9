"""Work that outlives the request that asked for it, and the leases that show it is being done.

A client that goes away does not stop a create halfway: the work is a task of its own. When this program dies, the
leases of what it worked on run out and the reconciler of another one takes over.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import structlog

from wrenn_server.db import leases, snapshots
from wrenn_server.db.pool import Database
from wrenn_server.db.sandboxes import LEASE_SEC
from wrenn_server.model.errors import Unavailable, WrennError

T = TypeVar("T")

GRACE_SEC = 30.0
"""How long a stopping program waits for its work; what is not done then is the reconciler's."""

log = structlog.get_logger()


class Work:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leased: Counter[str] = Counter()
        self._closing = False

    async def finish(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """The result of `work`, which goes on when the caller is cancelled."""
        if self._closing:
            work.close()
            raise Unavailable("the control plane is stopping", code="stopping")
        return await asyncio.shield(self._spawn(work, name))

    def later(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Nobody waits for it; a failure is logged."""
        if self._closing:
            work.close()
            return
        self._spawn(work, name)

    @contextmanager
    def leased(self, ids: Iterable[str]) -> Generator[None]:
        """While the context lasts, the leases of these sandboxes and snapshots are kept up."""
        held = list(ids)
        self._leased.update(held)
        try:
            yield
        finally:
            for id in held:
                self._leased[id] -= 1
                if not self._leased[id]:
                    del self._leased[id]

    def is_leased(self, id: str) -> bool:
        return id in self._leased

    async def keep_leases(self, db: Database) -> None:
        """Runs for ever."""
        while True:
            await asyncio.sleep(LEASE_SEC / 3)
            if not self._leased:
                continue
            try:
                await leases.extend(db, list(self._leased))
                await snapshots.extend(db, list(self._leased))
            except WrennError as error:
                log.warning("leases could not be extended", action="lease_failed", error=error.message)

    async def close(self) -> None:
        self._closing = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=GRACE_SEC)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, WrennError):
            log.error("work failed", action="work_failed", work=task.get_name(), exc_info=error)


@asynccontextmanager
async def running(db: Database) -> AsyncGenerator[Work, None]:
    work = Work()
    keeper = asyncio.create_task(work.keep_leases(db), name="keep leases")
    try:
        yield work
    finally:
        await work.close()
        keeper.cancel()
        await asyncio.wait([keeper])
