"""API keys: only SHA-256 digests are stored."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.model.people import Scope


class ApiKeyRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str
    name: str
    key_prefix: str
    created_by: str | None
    created_at: datetime
    last_used_at: datetime | None
    scopes: list[Scope]
    expires_at: datetime | None
    sandbox_id: str | None
    """A key that reaches this sandbox alone."""


async def insert(
    db: Executor,
    *,
    id: str,
    team_id: str,
    name: str,
    digest: bytes,
    key_prefix: str,
    created_by: str | None,
    scopes: Sequence[Scope],
    expires_in_sec: int | None,
    sandbox_id: str | None,
) -> ApiKeyRow:
    record = await db.fetchrow(
        """INSERT INTO api_keys (id, team_id, name, digest, key_prefix, created_by, scopes, expires_at, sandbox_id)
           VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8), $9) RETURNING *""",
        id,
        team_id,
        name,
        digest,
        key_prefix,
        created_by,
        list(scopes),
        expires_in_sec,
        sandbox_id,
    )
    inserted = row(record, ApiKeyRow)
    if inserted is None:
        raise LookupError("INSERT returned nothing")
    return inserted


async def by_digest(db: Executor, digest: bytes) -> ApiKeyRow | None:
    """None for one that has expired, too."""
    record = await db.fetchrow(
        "SELECT * FROM api_keys WHERE digest = $1 AND (expires_at IS NULL OR expires_at > now())", digest
    )
    return row(record, ApiKeyRow)


async def get(db: Executor, key_id: str, team_id: str) -> ApiKeyRow | None:
    record = await db.fetchrow("SELECT * FROM api_keys WHERE id = $1 AND team_id = $2", key_id, team_id)
    return row(record, ApiKeyRow)


async def of_team(db: Executor, team_id: str) -> list[ApiKeyRow]:
    """Newest first; without those of one sandbox."""
    records = await db.fetch(
        """SELECT * FROM api_keys WHERE team_id = $1 AND sandbox_id IS NULL
            ORDER BY created_at DESC, id""",
        team_id,
    )
    return rows(records, ApiKeyRow)


async def of_sandbox(db: Executor, sandbox_id: str, team_id: str) -> list[ApiKeyRow]:
    """Newest first."""
    records = await db.fetch(
        "SELECT * FROM api_keys WHERE sandbox_id = $1 AND team_id = $2 ORDER BY created_at DESC, id",
        sandbox_id,
        team_id,
    )
    return rows(records, ApiKeyRow)


async def delete(db: Executor, key_id: str, team_id: str) -> bool:
    return (
        await db.execute("DELETE FROM api_keys WHERE id = $1 AND team_id = $2", key_id, team_id) != "DELETE 0"
    )


async def delete_of_team(db: Executor, team_id: str) -> None:
    await db.execute("DELETE FROM api_keys WHERE team_id = $1", team_id)


async def delete_named(db: Executor, team_id: str, name: str) -> None:
    await db.execute("DELETE FROM api_keys WHERE team_id = $1 AND name = $2", team_id, name)


async def touch(db: Executor, used: Mapping[str, datetime]) -> None:
    """Notes when keys were last used, many at once."""
    await db.execute(
        """UPDATE api_keys k SET last_used_at = u.at
             FROM (SELECT k.id, u.at FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at)
                     JOIN api_keys k ON k.id = u.id ORDER BY k.id FOR UPDATE OF k) u
            WHERE k.id = u.id""",
        list(used.keys()),
        list(used.values()),
    )
