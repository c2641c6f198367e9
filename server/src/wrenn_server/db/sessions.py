"""Log-ins: only SHA-256 digests of their secrets are stored."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from wrenn_server.db.pool import Executor, row, rows

Kind = Literal["token", "cookie"]


class SessionRow(msgspec.Struct, kw_only=True):
    id: str
    user_id: str
    team_id: str | None
    kind: Kind
    address: str
    user_agent: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    rotated_at: datetime


async def insert(
    db: Executor,
    *,
    id: str,
    user_id: str,
    team_id: str,
    kind: Kind,
    digest: bytes,
    address: str,
    user_agent: str,
    lifetime_sec: float,
) -> None:
    await db.execute(
        """INSERT INTO sessions (id, user_id, team_id, kind, digest, address, user_agent, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))""",
        id,
        user_id,
        team_id,
        kind,
        digest,
        address,
        user_agent,
        lifetime_sec,
    )


async def by_digest(db: Executor, kind: Kind, digest: bytes) -> SessionRow | None:
    record = await db.fetchrow(
        "SELECT * FROM sessions WHERE digest = $1 AND kind = $2 AND expires_at > now()", digest, kind
    )
    return row(record, SessionRow)


async def rotate(
    db: Executor, *, old: bytes, new: bytes, lifetime_sec: float, grace_sec: float
) -> SessionRow | None:
    """Puts a new refresh token in the place of the old one, or of the one before within `grace_sec` of its end."""
    record = await db.fetchrow(
        """UPDATE sessions SET digest = $2, previous_digest = $1, last_used_at = now(),
                  rotated_at = CASE WHEN digest = $1 THEN now() ELSE rotated_at END,
                  expires_at = now() + make_interval(secs => $3)
            WHERE kind = 'token' AND expires_at > now()
              AND (digest = $1 OR (previous_digest = $1 AND rotated_at > now() - make_interval(secs => $4)))
        RETURNING *""",
        old,
        new,
        lifetime_sec,
        grace_sec,
    )
    return row(record, SessionRow)


async def delete_reused(db: Executor, digest: bytes) -> bool:
    """Ends the session whose refresh token was used although it has had a successor for long: one of the two who have
    it is not its owner."""
    return await db.execute("DELETE FROM sessions WHERE previous_digest = $1", digest) != "DELETE 0"


async def set_team(db: Executor, session_id: str, team_id: str) -> None:
    await db.execute("UPDATE sessions SET team_id = $2 WHERE id = $1", session_id, team_id)


async def of_user(db: Executor, user_id: str) -> list[SessionRow]:
    """Newest first."""
    records = await db.fetch(
        "SELECT * FROM sessions WHERE user_id = $1 AND expires_at > now() ORDER BY created_at DESC, id",
        user_id,
    )
    return rows(records, SessionRow)


async def delete(db: Executor, session_id: str, user_id: str) -> bool:
    done = await db.execute("DELETE FROM sessions WHERE id = $1 AND user_id = $2", session_id, user_id)
    return done != "DELETE 0"


async def delete_of_user(db: Executor, user_id: str, *, but: str | None = None) -> None:
    await db.execute("DELETE FROM sessions WHERE user_id = $1 AND id IS DISTINCT FROM $2", user_id, but)


async def touch(db: Executor, used: Mapping[str, datetime]) -> None:
    """Notes when sessions were last used, many at once."""
    await db.execute(
        """UPDATE sessions s SET last_used_at = u.at
             FROM (SELECT s.id, u.at FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at)
                     JOIN sessions s ON s.id = u.id ORDER BY s.id FOR UPDATE OF s) u
            WHERE s.id = u.id""",
        list(used.keys()),
        list(used.values()),
    )


async def expire(db: Executor) -> None:
    await db.execute("DELETE FROM sessions WHERE expires_at <= now()")
