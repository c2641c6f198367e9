"""Channels: where a team's events are told. What they are told with is sealed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from wrenn_server.db.pool import Executor, row, rows

Provider = Literal["webhook", "slack", "discord", "teams", "googlechat", "telegram", "matrix"]


class ChannelRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str
    name: str
    provider: Provider
    events: list[str]
    config: bytes
    enabled: bool
    created_at: datetime
    updated_at: datetime


async def insert(
    db: Executor,
    *,
    id: str,
    team_id: str,
    name: str,
    provider: Provider,
    events: Sequence[str],
    config: bytes,
    at_most: int,
) -> ChannelRow | None:
    """None: the team has one of this name, or has `at_most` already."""
    record = await db.fetchrow(
        """INSERT INTO channels (id, team_id, name, provider, events, config)
           SELECT $1, $2, $3, $4, $5, $6 WHERE (SELECT count(*) FROM channels WHERE team_id = $2) < $7
           ON CONFLICT (team_id, name) DO NOTHING RETURNING *""",
        id,
        team_id,
        name,
        provider,
        list(events),
        config,
        at_most,
    )
    return row(record, ChannelRow)


async def get(db: Executor, team_id: str, id: str) -> ChannelRow | None:
    return row(
        await db.fetchrow("SELECT * FROM channels WHERE id = $1 AND team_id = $2", id, team_id), ChannelRow
    )


async def by_id(db: Executor, id: str) -> ChannelRow | None:
    return row(await db.fetchrow("SELECT * FROM channels WHERE id = $1", id), ChannelRow)


async def of_team(db: Executor, team_id: str, *, webhooks_only: bool = False) -> list[ChannelRow]:
    """Oldest first."""
    records = await db.fetch(
        """SELECT * FROM channels WHERE team_id = $1 AND (NOT $2 OR provider = 'webhook')
            ORDER BY created_at, id""",
        team_id,
        webhooks_only,
    )
    return rows(records, ChannelRow)


async def name_taken(db: Executor, team_id: str, name: str, *, besides: str = "") -> bool:
    return await db.fetchval(
        "SELECT EXISTS (SELECT FROM channels WHERE team_id = $1 AND name = $2 AND id <> $3)",
        team_id,
        name,
        besides,
    )


async def update(
    db: Executor,
    seen: ChannelRow,
    *,
    name: str,
    events: Sequence[str],
    config: bytes,
    enabled: bool,
) -> ChannelRow | None:
    """None: it has changed since it was `seen`, or the name is another one's."""
    record = await db.fetchrow(
        """UPDATE channels SET name = $3, events = $4, config = $5, enabled = $6, updated_at = clock_timestamp()
            WHERE id = $1 AND updated_at = $2
              AND NOT EXISTS (SELECT FROM channels o WHERE o.team_id = $7 AND o.name = $3 AND o.id <> $1)
        RETURNING *""",
        seen.id,
        seen.updated_at,
        name,
        list(events),
        config,
        enabled,
        seen.team_id,
    )
    return row(record, ChannelRow)


async def delete(db: Executor, team_id: str, id: str) -> bool:
    return await db.execute("DELETE FROM channels WHERE id = $1 AND team_id = $2", id, team_id) != "DELETE 0"
