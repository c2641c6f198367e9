"""Pools: what teams have bought, and what their sandboxes draw of it.

What is drawn is kept by triggers (`sandboxes_draw`), in the statement that changes a sandbox; a start or a resume that
does not fit raises `PoolExhausted` out of that statement. Lock order: sandbox, host, pool.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from wrenn_server.db.pool import Connection, Executor, row, rows
from wrenn_server.model.pool import Capacity

LEASE_SEC = 15.0
"""How long a place in the queue is kept for one who is silent. `pool_take` has the same number."""


class PoolRow(msgspec.Struct, kw_only=True):
    team_id: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    spend_limit: int | None
    """A month's, in millionths of the rate card's currency."""
    vcpus_drawn: int
    memory_mb_drawn: int
    disk_mb_drawn: int
    version: int
    opened_at: datetime
    updated_at: datetime
    charged_until: datetime
    """Its time until then is in the ledger."""

    @property
    def bought(self) -> Capacity:
        return Capacity(self.vcpus, self.memory_mb, self.disk_mb)

    @property
    def drawn(self) -> Capacity:
        return Capacity(self.vcpus_drawn, self.memory_mb_drawn, self.disk_mb_drawn)


class ChangeRow(msgspec.Struct, kw_only=True):
    id: int
    kind: Literal["open", "resize", "close"]
    version: int
    vcpus: int
    memory_mb: int
    disk_mb: int
    spend_limit: int | None
    changed_by: str | None
    at: datetime


class CapRow(msgspec.Struct, kw_only=True):
    id: str
    kind: Literal["key", "label"]
    name: str
    value: str
    vcpus: int | None
    memory_mb: int | None
    disk_mb: int | None
    vcpus_drawn: int
    memory_mb_drawn: int
    disk_mb_drawn: int
    created_at: datetime


class PlanRow(msgspec.Struct, kw_only=True):
    name: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    spend_limit: int | None
    is_default: bool


async def get(db: Executor, team_id: str) -> PoolRow | None:
    return row(await db.fetchrow("SELECT * FROM pools WHERE team_id = $1", team_id), PoolRow)


async def lock(tx: Connection, team_id: str) -> PoolRow | None:
    """Until the end of the transaction nobody draws from it."""
    record = await tx.fetchrow("SELECT * FROM pools WHERE team_id = $1 FOR UPDATE", team_id)
    return row(record, PoolRow)


async def drawn(db: Executor, team_id: str) -> Capacity:
    """By all of the team's sandboxes, whether it has a pool or not."""
    record = await db.fetchrow(
        """SELECT coalesce(sum(vcpus) FILTER (WHERE draw = 'all'), 0) AS vcpus,
                  coalesce(sum(memory_mb) FILTER (WHERE draw = 'all'), 0) AS memory_mb,
                  coalesce(sum(disk_mb), 0) AS disk_mb
             FROM draws WHERE team_id = $1 AND ended_at IS NULL""",
        team_id,
    )
    return row(record, Capacity) or Capacity()


async def hold_draws(tx: Connection, team_id: str) -> bool:
    """Of a team without a pool: until the end of the transaction nobody draws. False: no such team."""
    await tx.execute("SELECT pg_advisory_xact_lock(pool_key($1))", team_id)
    return await tx.fetchval("SELECT 1 FROM teams WHERE id = $1 AND deleted_at IS NULL", team_id) is not None


async def open(tx: Connection, team_id: str, size: Capacity, spend_limit: int | None, now: Capacity) -> None:
    """:param now: what is drawn already; the team's draws are held"""
    await tx.execute(
        """INSERT INTO pools (team_id, vcpus, memory_mb, disk_mb, spend_limit, vcpus_drawn, memory_mb_drawn, disk_mb_drawn)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
        team_id,
        size.vcpus,
        size.memory_mb,
        size.disk_mb,
        spend_limit,
        now.vcpus,
        now.memory_mb,
        now.disk_mb,
    )


async def resize(tx: Connection, team_id: str, size: Capacity, spend_limit: int | None) -> None:
    """Of a locked one. Whoever waits looks again."""
    await tx.execute(
        """UPDATE pools SET vcpus = $2, memory_mb = $3, disk_mb = $4, spend_limit = $5, version = version + 1,
                  updated_at = now() WHERE team_id = $1""",
        team_id,
        size.vcpus,
        size.memory_mb,
        size.disk_mb,
        spend_limit,
    )
    await tx.execute("SELECT pool_notify($1)", team_id)


async def close(tx: Connection, team_id: str) -> None:
    await tx.execute("SELECT pool_notify($1)", team_id)
    await tx.execute("DELETE FROM pools WHERE team_id = $1", team_id)


async def note(tx: Connection, kind: str, pool: PoolRow, changed_by: str | None) -> None:
    """Into the history."""
    await tx.execute(
        """INSERT INTO pool_changes (team_id, kind, version, vcpus, memory_mb, disk_mb, spend_limit, changed_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
        pool.team_id,
        kind,
        pool.version,
        pool.vcpus,
        pool.memory_mb,
        pool.disk_mb,
        pool.spend_limit,
        changed_by,
    )


async def changes(db: Executor, team_id: str, *, before: int | None, limit: int) -> list[ChangeRow]:
    """Newest first. :param before: id of the last one of the page before"""
    records = await db.fetch(
        """SELECT * FROM pool_changes WHERE team_id = $1 AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3""",
        team_id,
        before,
        limit,
    )
    return rows(records, ChangeRow)


async def idle(
    db: Executor, team_id: str, *, cap: str | None, without: Sequence[str], limit: int
) -> list[tuple[str, Capacity]]:
    """Running sandboxes that may be paused, which is what `on_timeout` says, longest idle first; with what that frees.

    :param cap: only those that draw from this one
    """
    records = await db.fetch(
        """SELECT s.id, s.vcpus, s.memory_mb FROM sandboxes s
            WHERE s.team_id = $1 AND s.state = 'running' AND s.on_timeout = 'pause' AND s.id <> ALL($3)
              AND ($2::text IS NULL OR EXISTS (
                   SELECT FROM pool_caps c WHERE c.id = $2 AND c.team_id = $1
                      AND CASE c.kind WHEN 'key' THEN c.name = s.key_id
                                      ELSE s.metadata @> jsonb_build_object(c.name, c.value) END))
            ORDER BY coalesce(s.last_active_at, s.created_at), s.id LIMIT $4""",
        team_id,
        cap,
        list(without),
        limit,
    )
    return [(record["id"], Capacity(record["vcpus"], record["memory_mb"])) for record in records]


# The queue


async def join(db: Executor, team_id: str, request: str | None) -> int | None:
    """A place behind all others. None: there is no such pool.

    :param request: whoever comes again with the same one has the place that it had
    """
    return await db.fetchval(
        """WITH silent AS (
               DELETE FROM pool_waiters WHERE team_id = $1 AND seen_at < clock_timestamp() - make_interval(secs => $3)
                  AND NOT coalesce(request = $2, false))
           INSERT INTO pool_waiters (team_id, request) SELECT team_id, $2 FROM pools WHERE team_id = $1
           ON CONFLICT (team_id, request) DO UPDATE SET seen_at = clock_timestamp()
           RETURNING id""",
        team_id,
        request,
        LEASE_SEC,
    )


async def wait(db: Executor, team_id: str, ticket: int, *, capped: bool) -> int | None:
    """Keeps a place, and tells how many are before it. None: it is gone."""
    return await db.fetchval(
        """WITH kept AS (UPDATE pool_waiters SET seen_at = clock_timestamp(), capped = $3 WHERE id = $2 RETURNING id)
           SELECT (SELECT count(*) FROM pool_waiters w
                    WHERE w.team_id = $1 AND w.id < k.id AND NOT w.capped
                      AND w.seen_at > clock_timestamp() - make_interval(secs => $4)) FROM kept k""",
        team_id,
        ticket,
        capped,
        LEASE_SEC,
    )


async def leave(db: Executor, team_id: str, ticket: int) -> None:
    await db.execute(
        """WITH gone AS (DELETE FROM pool_waiters WHERE id = $2 RETURNING id)
           SELECT pg_notify('wrenn', 'pool ' || $1) FROM gone""",
        team_id,
        ticket,
    )


async def waiting(db: Executor, team_id: str) -> int:
    return await db.fetchval(
        """SELECT count(*) FROM pool_waiters
            WHERE team_id = $1 AND seen_at > clock_timestamp() - make_interval(secs => $2)""",
        team_id,
        LEASE_SEC,
    )


# Caps


async def caps(db: Executor, team_id: str) -> list[CapRow]:
    records = await db.fetch("SELECT * FROM pool_caps WHERE team_id = $1 ORDER BY created_at, id", team_id)
    return rows(records, CapRow)


async def cap_drawn(tx: Connection, team_id: str, kind: str, name: str, value: str) -> Capacity:
    """What a cap would count. The pool is locked."""
    record = await tx.fetchrow(
        """SELECT coalesce(sum(d.vcpus) FILTER (WHERE d.draw = 'all'), 0) AS vcpus,
                  coalesce(sum(d.memory_mb) FILTER (WHERE d.draw = 'all'), 0) AS memory_mb,
                  coalesce(sum(d.disk_mb), 0) AS disk_mb
             FROM draws d JOIN sandboxes s ON s.id = d.sandbox_id
            WHERE d.team_id = $1 AND d.ended_at IS NULL
              AND CASE $2 WHEN 'key' THEN s.key_id = $3 ELSE s.metadata @> jsonb_build_object($3::text, $4::text) END""",
        team_id,
        kind,
        name,
        value,
    )
    return row(record, Capacity) or Capacity()


async def set_cap(
    tx: Connection,
    team_id: str,
    *,
    id: str,
    kind: str,
    name: str,
    value: str,
    bound: tuple[int | None, int | None, int | None],
    now: Capacity,
) -> CapRow | None:
    """A new one, or another bound of the one that is there. The pool is locked.

    :param bound: vCPUs, memory and disk; None: none
    """
    record = await tx.fetchrow(
        """INSERT INTO pool_caps (id, team_id, kind, name, value, vcpus, memory_mb, disk_mb, vcpus_drawn, memory_mb_drawn,
                                  disk_mb_drawn)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
           ON CONFLICT (team_id, kind, name, value) DO UPDATE SET vcpus = $6, memory_mb = $7, disk_mb = $8
           RETURNING *""",
        id,
        team_id,
        kind,
        name,
        value,
        *bound,
        now.vcpus,
        now.memory_mb,
        now.disk_mb,
    )
    await tx.execute("SELECT pool_notify($1)", team_id)
    return row(record, CapRow)


async def delete_cap(db: Executor, team_id: str, cap_id: str) -> bool:
    return await db.fetchval(
        """WITH gone AS (DELETE FROM pool_caps WHERE id = $2 AND team_id = $1 RETURNING id),
                told AS (SELECT pool_notify($1) FROM gone)
           SELECT (SELECT count(*) FROM told) > 0""",
        team_id,
        cap_id,
    )


# Plans


async def plans(db: Executor) -> list[PlanRow]:
    return rows(await db.fetch("SELECT * FROM plans ORDER BY name"), PlanRow)


async def plan(db: Executor, name: str) -> PlanRow | None:
    return row(await db.fetchrow("SELECT * FROM plans WHERE name = $1", name), PlanRow)


async def set_plan(tx: Connection, plan: PlanRow) -> None:
    if plan.is_default:
        await tx.execute("UPDATE plans SET is_default = false WHERE is_default AND name <> $1", plan.name)
    await tx.execute(
        """INSERT INTO plans (name, vcpus, memory_mb, disk_mb, spend_limit, is_default) VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT (name) DO UPDATE SET vcpus = $2, memory_mb = $3, disk_mb = $4, spend_limit = $5, is_default = $6""",
        plan.name,
        plan.vcpus,
        plan.memory_mb,
        plan.disk_mb,
        plan.spend_limit,
        plan.is_default,
    )


async def delete_plan(db: Executor, name: str) -> bool:
    return await db.execute("DELETE FROM plans WHERE name = $1", name) != "DELETE 0"
