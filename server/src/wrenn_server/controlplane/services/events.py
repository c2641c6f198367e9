"""What happened to a team's sandboxes and snapshots, as it happens and from where somebody has stopped listening.

```
 a state changes ─► row in `events`, same transaction ─► NOTIFY event ─► `publish`: positions, NOTIFY events TEAM ─► streams
```

A stream is a position and a question to the database; nothing is queued for it, so a slow reader costs nothing, and one
that comes back goes on behind the last position that it has seen.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import events
from wrenn_server.db.events import EventRow

KEEP_SEC = 30 * 24 * 3600.0
PUBLISH_INTERVAL = 30.0
"""Seconds, should a NOTIFY have been missed."""
EXPIRE_INTERVAL = 600.0
ACCESS_SEC = 5.0
"""So often a stream asks whether its reader may still read."""
QUIET_SEC = 30.0
"""After so long without an event a stream says that it is there."""
_PUBLISHED = 1000
_EXPIRED = 10_000
_READ = 20
"""Rows; a sandbox's metadata may have 260 kB."""


class Quiet:
    """Nothing has happened for a while."""


async def publish(cp: ControlPlane) -> None:
    while await events.publish(cp.db, _PUBLISHED) == _PUBLISHED:
        pass


async def follow(
    cp: ControlPlane,
    team_id: str,
    position: int | None,
    may_read: Callable[[], Awaitable[bool]],
    *,
    platform: bool,
) -> AsyncGenerator[EventRow | Quiet]:
    """The team's events behind a position, for ever: until the control plane stops or `may_read` says no.

    :param position: None: those that are still to come
    :param platform: with those that are no team's
    """
    clock = asyncio.get_running_loop()
    with cp.feed.waiting(team_id) as change:
        newest = await events.head(cp.db)
        # A greater one is from before this database was restored from a backup.
        position = newest if position is None else min(position, newest)
        asked = said = clock.time()
        yield Quiet()
        while not cp.feed.closing:
            if clock.time() - asked >= ACCESS_SEC:
                if not await may_read():
                    return
                asked = clock.time()
            change.clear()
            found = await events.after(cp.db, team_id, position, _READ, platform=platform)
            for event in found:
                yield event
                position = event.position
                said = clock.time()
            if found:
                continue
            if clock.time() - said >= QUIET_SEC:
                yield Quiet()
                said = clock.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(asked + ACCESS_SEC):
                    await change.wait()


async def page(
    cp: ControlPlane,
    team_id: str,
    *,
    platform: bool,
    type: str | None,
    resource_id: str | None,
    before: int | None,
    limit: int,
) -> list[EventRow]:
    """Newest first."""
    return await events.page(
        cp.db,
        team_id,
        platform=platform,
        type=type,
        resource_id=resource_id,
        before=before,
        limit=limit,
    )


async def expire(cp: ControlPlane) -> None:
    """One control plane at a time deletes what is too old, a piece at a time, so that nothing waits for it."""
    deleted = _EXPIRED
    while deleted == _EXPIRED:
        async with cp.db.transaction() as tx:
            deleted = await events.expire(tx, KEEP_SEC, _EXPIRED)
