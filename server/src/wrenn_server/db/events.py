"""Events: written by triggers in the transaction that makes them happen, read in the order of their `position`."""

from datetime import datetime
from typing import Literal

import msgspec

from wrenn_server.db import leases
from wrenn_server.db.pool import Connection, Executor, row, rows
from wrenn_server.model.sandbox import State


class SandboxThen(msgspec.Struct, kw_only=True):
    """What a sandbox was when the event happened."""

    state: State
    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    timeout_sec: int
    generation: int
    created_at: datetime
    started_at: datetime | None
    last_active_at: datetime | None
    updated_at: datetime
    metadata: dict[str, str]


class EventRow(msgspec.Struct, kw_only=True):
    position: int
    id: str
    team_id: str | None
    type: str
    outcome: Literal["success", "error"] | None
    resource_type: str
    resource_id: str
    actor_type: Literal["user", "api_key", "system"]
    actor_id: str | None
    actor_name: str | None
    metadata: dict[str, str]
    error: str | None
    sandbox: SandboxThen | None
    created_at: datetime


async def publish(db: Executor, limit: int) -> int:
    """Gives positions to at most `limit` events that have none, and tells of them. Returns how many."""
    return await db.fetchval("SELECT events_publish($1)", limit)


async def head(db: Executor) -> int:
    """The position of the newest."""
    return await db.fetchval("SELECT position FROM event_head")


async def after(db: Executor, team_id: str, position: int, limit: int, *, platform: bool) -> list[EventRow]:
    """The team's events that follow, oldest first.

    :param platform: with those that are no team's
    """
    records = await db.fetch(
        """SELECT * FROM events WHERE position > $2 AND (team_id = $1 OR ($4 AND team_id IS NULL))
            ORDER BY position LIMIT $3""",
        team_id,
        position,
        limit,
        platform,
    )
    return rows(records, EventRow)


async def page(
    db: Executor,
    team_id: str,
    *,
    platform: bool,
    type: str | None = None,
    resource_id: str | None = None,
    before: int | None = None,
    limit: int,
) -> list[EventRow]:
    """Newest first.

    :param platform: with those that are no team's
    :param before: position of the last one of the page before
    """
    records = await db.fetch(
        """SELECT * FROM events WHERE (team_id = $1 OR ($2 AND team_id IS NULL)) AND position < $3
              AND ($4::text IS NULL OR type = $4) AND ($5::text IS NULL OR resource_id = $5)
            ORDER BY position DESC LIMIT $6""",
        team_id,
        platform,
        2**63 - 1 if before is None else before,
        type,
        resource_id,
        limit,
    )
    return rows(records, EventRow)


async def get(db: Executor, event_id: str) -> EventRow | None:
    return row(await db.fetchrow("SELECT * FROM events WHERE id = $1", event_id), EventRow)


async def expire(tx: Connection, keep_sec: float, limit: int) -> int:
    """Deletes events that are older, at most `limit`. Returns how many; 0 also while another control plane is at it."""
    if not await leases.alone(tx, _EXPIRING):
        return 0
    done = await tx.execute(
        """DELETE FROM events WHERE sequence = ANY (ARRAY (
               SELECT sequence FROM events WHERE created_at < now() - make_interval(secs => $1)
                ORDER BY created_at LIMIT $2))""",
        keep_sec,
        limit,
    )
    return int(done.removeprefix("DELETE "))


_EXPIRING = 0x77726E65  # any number that nothing else locks
