"""Deliveries: one event for one channel, until it has arrived or nobody tries any more."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from wrenn_server.db import leases
from wrenn_server.db.pool import Connection, Executor, row, rows

LEASE_SEC = 60.0
"""Longer than any attempt lasts: after that whoever tried is dead."""
_LOOKED_AT = 500


class DeliveryRow(msgspec.Struct, kw_only=True):
    sequence: int
    id: str
    channel_id: str
    event_id: str | None
    """None: a test."""
    type: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    restarted: int
    next_at: datetime
    created_at: datetime
    settled_at: datetime | None


class AttemptRow(msgspec.Struct, kw_only=True):
    number: int
    at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    answer: str


async def claim(
    db: Executor, limit: int, *, per_channel: int, except_channels: Sequence[str]
) -> list[DeliveryRow]:
    """Takes deliveries whose time has come, the oldest first, and of each channel only a few, so that a slow one holds
    nobody up. Each is an attempt, and whoever gets it is alone with it."""
    records = await db.fetch(
        """WITH due AS (
               SELECT id, channel_id, next_at FROM deliveries
                WHERE state = 'pending' AND next_at <= now() AND channel_id <> ALL ($3)
                ORDER BY next_at LIMIT $5),
           ranked AS (
               SELECT id, next_at, row_number() OVER (PARTITION BY channel_id ORDER BY next_at) AS place FROM due),
           taken AS (
               SELECT d.id FROM deliveries d JOIN ranked r USING (id)
                WHERE r.place <= $2 AND d.state = 'pending' AND d.next_at <= now()
                ORDER BY r.next_at LIMIT $1 FOR UPDATE OF d SKIP LOCKED)
           UPDATE deliveries d SET attempts = attempts + 1, next_at = now() + make_interval(secs => $4)
             FROM taken WHERE d.id = taken.id RETURNING d.*""",
        limit,
        per_channel,
        list(except_channels),
        LEASE_SEC,
        _LOOKED_AT,
    )
    return rows(records, DeliveryRow)


async def due_in(db: Executor, *, except_channels: Sequence[str]) -> float | None:
    """Seconds until the next one, less than 0 when it is late; None: there is none."""
    return await db.fetchval(
        """SELECT extract(epoch FROM min(next_at) - now())::float8 FROM deliveries
            WHERE state = 'pending' AND channel_id <> ALL ($1)""",
        list(except_channels),
    )


async def insert_test(db: Executor, channel_id: str) -> DeliveryRow:
    """A test, whose first and only attempt is the caller's."""
    record = await db.fetchrow(
        """INSERT INTO deliveries (channel_id, type, attempts, next_at)
           VALUES ($1, 'test', 1, now() + make_interval(secs => $2)) RETURNING *""",
        channel_id,
        LEASE_SEC,
    )
    if record is None:
        raise LookupError("INSERT gave nothing back")
    return msgspec.convert(dict(record.items()), DeliveryRow)


async def settle(
    db: Executor,
    claimed: DeliveryRow,
    *,
    duration_ms: int,
    status: int | None,
    error: str | None,
    answer: str,
    again_sec: float | None,
) -> None:
    """Writes down what became of an attempt, unless somebody else has the delivery by now.

    :param error: None: it has arrived
    :param again_sec: when to try again; None: not any more
    """
    await db.execute(
        """WITH settled AS (
               UPDATE deliveries SET
                      state = CASE WHEN $5::text IS NULL THEN 'delivered' WHEN $7::float8 IS NULL THEN 'failed'
                                   ELSE 'pending' END,
                      next_at = now() + make_interval(secs => coalesce($7, 0)),
                      settled_at = CASE WHEN $5 IS NULL OR $7 IS NULL THEN now() END
                WHERE id = $1 AND attempts = $2 AND state = 'pending' RETURNING id)
           INSERT INTO delivery_attempts (delivery_id, number, duration_ms, status, error, answer)
           SELECT id, $2, $3, $4::int, $5, $6 FROM settled""",
        claimed.id,
        claimed.attempts,
        duration_ms,
        status,
        error,
        answer,
        again_sec,
    )


async def restart(db: Executor, channel_id: str, id: str) -> DeliveryRow | None:
    """As if it had never been tried, whatever became of it. None: there is none, or it is being tried now."""
    record = await db.fetchrow(
        """UPDATE deliveries SET state = 'pending', restarted = attempts, next_at = now(), settled_at = NULL
            WHERE id = $1 AND channel_id = $2 AND event_id IS NOT NULL
              AND (state <> 'pending' OR EXISTS (SELECT FROM delivery_attempts a
                                                  WHERE a.delivery_id = $1 AND a.number = deliveries.attempts))
        RETURNING *""",
        id,
        channel_id,
    )
    if record is not None:
        await db.execute("SELECT pg_notify('wrenn', 'deliveries')")
    return row(record, DeliveryRow)


async def get(db: Executor, channel_id: str, id: str) -> DeliveryRow | None:
    return row(
        await db.fetchrow("SELECT * FROM deliveries WHERE id = $1 AND channel_id = $2", id, channel_id),
        DeliveryRow,
    )


async def attempts(db: Executor, id: str) -> list[AttemptRow]:
    """Oldest first."""
    records = await db.fetch(
        "SELECT * FROM delivery_attempts WHERE delivery_id = $1 ORDER BY number LIMIT 1000", id
    )
    return rows(records, AttemptRow)


async def page(
    db: Executor, channel_id: str, *, state: str | None, before: int | None, limit: int
) -> list[DeliveryRow]:
    """Newest first.

    :param before: sequence of the last one of the page before
    """
    records = await db.fetch(
        """SELECT * FROM deliveries WHERE channel_id = $1 AND sequence < $2 AND ($3::text IS NULL OR state = $3)
            ORDER BY sequence DESC LIMIT $4""",
        channel_id,
        2**63 - 1 if before is None else before,
        state,
        limit,
    )
    return rows(records, DeliveryRow)


async def expire(tx: Connection, keep_sec: float, limit: int) -> int:
    """Deletes deliveries that are older, at most `limit`. Returns how many; 0 also while another control plane is at it."""
    if not await leases.alone(tx, _EXPIRING):
        return 0
    done = await tx.execute(
        """DELETE FROM deliveries WHERE sequence = ANY (ARRAY (
               SELECT sequence FROM deliveries WHERE created_at < now() - make_interval(secs => $1)
                ORDER BY created_at LIMIT $2))""",
        keep_sec,
        limit,
    )
    return int(done.removeprefix("DELETE "))


_EXPIRING = 0x77726E64  # any number that nothing else locks
