"""What becomes of a start for which the team's pool has no room: it fails, waits for its turn, or makes room.

```
 attempt ── fits ──► done
    │
    └── PoolExhausted ── make_room: pause the longest idle ──► attempt again
                     ── wait_sec: a place in the queue, and at every change of the pool: am I first? ──► attempt again
                     ── neither, or the time is over ──► the refusal
```

The queue is in the database, one for each pool, in the order of arrival; `sandboxes_draw` refuses whoever would overtake.
A place is a lease: when a control plane dies, the places of its callers lapse, and all others keep theirs. A request
that comes again with its Idempotency-Key within the lease has the place that it had.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import pauses
from wrenn_server.controlplane.services.idempotency import Claim
from wrenn_server.db import pools as db_pools
from wrenn_server.db.pool import DatabaseUnavailable
from wrenn_server.model.errors import Conflict, NotFound
from wrenn_server.model.pool import Capacity, PoolExhausted

T = TypeVar("T")

WAIT_MAX = 600
_RENEW_SEC = db_pools.LEASE_SEC / 3
_IDLE_MAX = 200
"""Idle sandboxes that are looked at, and at most paused, for one start."""
_ROUNDS = 4
"""How often others may take the room that was made."""
_NAMED = 3

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WhenFull:
    """
    :ivar wait_sec: 0: fail at once
    :ivar make_room: the longest idle sandboxes whose `on_timeout` is `pause` are paused
    """

    wait_sec: float = 0
    make_room: bool = False


async def admitted(
    cp: ControlPlane,
    team_id: str,
    when_full: WhenFull,
    attempt: Callable[[int | None], Awaitable[T]],
    *,
    claim: Claim | None = None,
    keep: str | None = None,
) -> T:
    """What `attempt` gives. Whoever leaves while waiting leaves the queue.

    :param attempt: is given the place in the queue that it comes from
    :param claim: of the idempotency key that the request came with
    :param keep: id of a sandbox that is not to be paused for this
    :raises PoolExhausted: with a hint at what would free enough
    """
    clock = asyncio.get_running_loop()
    until = clock.time() + when_full.wait_sec
    rounds = _ROUNDS if when_full.make_room else 0
    request = claim.request.key if claim else None
    ticket: int | None = None
    with cp.routes.watching(team_id) as changed:
        try:
            while True:
                changed.clear()
                try:
                    return await attempt(ticket)
                except PoolExhausted as full:
                    refused = full
                if rounds and await _room_made(cp, team_id, refused, keep):
                    rounds -= 1
                    continue
                if refused.never or clock.time() >= until:
                    raise await _explained(cp, team_id, refused, keep) from refused
                if ticket is None:
                    ticket = await db_pools.join(cp.db, team_id, request)
                    continue  # what happened before nobody tells us
                ticket = await _turn(cp, team_id, ticket, refused, changed, until)
        except asyncio.CancelledError:
            if request is not None:  # we are stopping: who comes again with the key finds the place
                ticket = None
            raise
        finally:
            if ticket is not None:
                with contextlib.suppress(DatabaseUnavailable):
                    await db_pools.leave(cp.db, team_id, ticket)


async def _turn(
    cp: ControlPlane, team_id: str, ticket: int, refused: PoolExhausted, changed: asyncio.Event, until: float
) -> int | None:
    """Waits until nobody is before us and something has changed, or the time is over. None: the place was lost."""
    clock = asyncio.get_running_loop()
    while (left := until - clock.time()) > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left, _RENEW_SEC)):
                await changed.wait()
        changed.clear()
        ahead = await db_pools.wait(cp.db, team_id, ticket, capped=refused.cap is not None)
        if ahead is None:
            return None
        if ahead == 0:
            break
    return ticket


async def _room_made(cp: ControlPlane, team_id: str, refused: PoolExhausted, keep: str | None) -> bool:
    """Whether something was paused, and as much as was missing. Nothing is when it would not be enough, or would be
    for others who wait already."""
    if refused.ahead or refused.missing.disk_mb:
        return False
    chosen = await _enough(cp, team_id, refused, keep)
    paused = False
    for sandbox_id in chosen:
        try:
            await pauses.pause(cp, team_id, sandbox_id)
        except (Conflict, NotFound) as error:
            log.info("not paused", action="make_room", sandbox_id=sandbox_id, error=error.message)
        else:
            paused = True
    return paused


async def _explained(
    cp: ControlPlane, team_id: str, refused: PoolExhausted, keep: str | None
) -> PoolExhausted:
    """The refusal, and what would free enough."""
    if refused.never or refused.missing.disk_mb:
        return refused
    chosen = await _enough(cp, team_id, refused, keep)
    if not chosen or refused.missing == Capacity():
        return refused
    named = ", ".join(chosen[:_NAMED]) + (f" and {len(chosen) - _NAMED} more" if len(chosen) > _NAMED else "")
    return PoolExhausted(
        refused.missing,
        ahead=refused.ahead,
        cap=refused.cap,
        hint=f"pausing {named}, idle for the longest, would free enough: that is what make_room does; or ask with "
        "wait_sec, or raise the pool",
    )


async def _enough(cp: ControlPlane, team_id: str, refused: PoolExhausted, keep: str | None) -> Sequence[str]:
    idle = await db_pools.idle(
        cp.db, team_id, cap=refused.cap, without=[keep] if keep else [], limit=_IDLE_MAX
    )
    return enough(idle, refused.missing)


def enough(idle: Sequence[tuple[str, Capacity]], missing: Capacity) -> list[str]:
    """The first ones that together have what is missing of vCPUs and memory; none if all together have not."""
    vcpus, memory_mb = missing.vcpus, missing.memory_mb
    chosen: list[str] = []
    for sandbox_id, size in idle:
        if vcpus <= 0 and memory_mb <= 0:
            break
        chosen.append(sandbox_id)
        vcpus -= size.vcpus
        memory_mb -= size.memory_mb
    return chosen if vcpus <= 0 and memory_mb <= 0 else []
