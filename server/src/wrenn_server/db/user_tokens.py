"""Secrets in links that work once; only their digests are stored. A user has one of each purpose."""

from typing import Literal

from wrenn_server.db.pool import Executor

Purpose = Literal["activate", "reset"]


async def put(db: Executor, *, user_id: str, purpose: Purpose, digest: bytes, lifetime_sec: float) -> None:
    """The one before stops working."""
    await db.execute(
        """INSERT INTO user_tokens (digest, user_id, purpose, expires_at)
           VALUES ($1, $2, $3, now() + make_interval(secs => $4))
           ON CONFLICT (user_id, purpose) DO UPDATE
              SET digest = excluded.digest, expires_at = excluded.expires_at, created_at = now()""",
        digest,
        user_id,
        purpose,
        lifetime_sec,
    )


async def take(db: Executor, purpose: Purpose, digest: bytes) -> str | None:
    """The user's id, once."""
    return await db.fetchval(
        "DELETE FROM user_tokens WHERE digest = $1 AND purpose = $2 AND expires_at > now() RETURNING user_id",
        digest,
        purpose,
    )


async def expire(db: Executor) -> None:
    await db.execute("DELETE FROM user_tokens WHERE expires_at <= now()")
