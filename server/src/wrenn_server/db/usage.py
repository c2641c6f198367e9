"""What sandboxes used by day, and what ran at a time."""

from collections.abc import Sequence
from datetime import date, datetime

import msgspec

from wrenn_server.db import leases
from wrenn_server.db.pool import Connection, Executor, row, rows
from wrenn_server.db.samples import as_json
from wrenn_server.wire.agent import Sample


class DayRow(msgspec.Struct, kw_only=True):
    """Processor time in milliseconds; memory and disk in MiB-milliseconds."""

    day: date
    cpu_ms: int
    memory_mb_ms: int
    disk_mb_ms: int
    egress_bytes: int


class Running(msgspec.Struct, kw_only=True, frozen=True):
    running: int
    vcpus: int
    memory_mb: int


class BucketRow(msgspec.Struct, kw_only=True, frozen=True):
    """Of the times when something changed in a bucket: the highest of each, and the last."""

    bucket: int
    running: int
    vcpus: int
    memory_mb: int
    last_running: int
    last_vcpus: int
    last_memory_mb: int


async def untaken(tx: Connection, host_id: str, epoch: float, numbers: Sequence[int]) -> set[int]:
    """Those of an agent process's numbers that are not counted yet. Until the end of the transaction nobody else counts
    any."""
    found = await tx.fetchval(
        """INSERT INTO sample_epochs AS e (host_id, epoch) VALUES ($1, $2)
           ON CONFLICT (host_id, epoch) DO UPDATE SET seen_at = now()
           RETURNING ARRAY (SELECT n FROM unnest($3::bigint[]) n WHERE NOT e.taken @> n)""",
        host_id,
        epoch,
        list(numbers),
    )
    return set(found)


async def take(tx: Connection, host_id: str, epoch: float, first: int, count: int) -> None:
    """Writes down that the numbers from `first` on are counted. Of numbers with too many gaps all up to the highest one
    are."""
    await tx.execute(
        """UPDATE sample_epochs
              SET taken = (SELECT CASE WHEN count(*) > $5 THEN int8multirange(range_merge(range_agg(r)))
                                       ELSE range_agg(r) END
                             FROM unnest(taken + int8multirange(int8range($3::bigint, $3::bigint + $4::bigint))) r)
            WHERE host_id = $1 AND epoch = $2""",
        host_id,
        epoch,
        first,
        count,
        _GAPS_MAX,
    )


async def count(tx: Connection, host_id: str, samples: Sequence[Sample]) -> None:
    """Adds up samples of sandboxes that are on the host or ended there."""
    # In order, so that two batches with the same sandboxes do not wait for each other in a circle.
    await tx.execute(
        f"""INSERT INTO usage_days AS u (sandbox_id, day, team_id, cpu_ms, memory_mb_ms, disk_mb_ms, egress_bytes)
            SELECT s.id, (to_timestamp(n.at) AT TIME ZONE 'UTC')::date AS day, s.team_id,
                   least(sum(least(round(n.cpu_used_pct * n.cpu_count * n.seconds * 10), $1)::bigint), $1::bigint),
                   least(sum(least(round(n.mem_used / 1048576.0::float8 * n.seconds * 1000), $1)::bigint), $1),
                   least(sum(least(round(n.disk_used / 1048576.0::float8 * n.seconds * 1000), $1)::bigint), $1),
                   least(sum(n.egress_bytes), $1)
              FROM json_to_recordset($3::json)
                AS n (sandbox_id text, at float8, cpu_count int, cpu_used_pct float8, mem_used bigint, disk_used bigint,
                      seconds float8, egress_bytes bigint)
              JOIN sandboxes s ON s.id = n.sandbox_id AND s.host_id = $2
             GROUP BY s.id, day, s.team_id ORDER BY s.team_id, day, s.id
            {_ADD}""",  # noqa: S608 - text of ours
        _MOST,
        host_id,
        as_json(samples),
    )


async def days(
    db: Executor, team_id: str, first: date, last: date, *, sandbox_id: str | None = None
) -> list[DayRow]:
    """Oldest first, both ends included; days without any use are not there."""
    records = await db.fetch(
        """SELECT day, least(sum(cpu_ms), $5::bigint)::bigint AS cpu_ms,
                  least(sum(memory_mb_ms), $5)::bigint AS memory_mb_ms,
                  least(sum(disk_mb_ms), $5)::bigint AS disk_mb_ms, least(sum(egress_bytes), $5)::bigint AS egress_bytes
             FROM usage_days WHERE team_id = $1 AND day BETWEEN $2 AND $3 AND ($4::text IS NULL OR sandbox_id = $4)
            GROUP BY day ORDER BY day""",
        team_id,
        first,
        last,
        sandbox_id,
        _MOST,
    )
    return rows(records, DayRow)


# What ran


async def running(db: Executor, team_id: str, at: datetime) -> Running:
    record = await db.fetchrow(
        """SELECT count(*) AS running, coalesce(sum(vcpus), 0) AS vcpus, coalesce(sum(memory_mb), 0) AS memory_mb
             FROM draws WHERE team_id = $1 AND draw = 'all' AND began_at <= $2 AND (ended_at IS NULL OR ended_at > $2)""",
        team_id,
        at,
    )
    return row(record, Running) or Running(running=0, vcpus=0, memory_mb=0)


async def buckets(
    db: Executor, team_id: str, start: datetime, end: datetime, seconds: int
) -> list[BucketRow]:
    """Of the buckets in which something changed, numbered from `start`."""
    records = await db.fetch(
        """WITH spans AS (
               SELECT greatest(began_at, $2) AS began_at, ended_at, vcpus, memory_mb FROM draws
                WHERE team_id = $1 AND draw = 'all' AND began_at < $3 AND (ended_at IS NULL OR ended_at > $2)),
           changes AS (
               SELECT at, sum(n) AS n, sum(vcpus) AS vcpus, sum(memory_mb) AS memory_mb
                 FROM (SELECT began_at AS at, 1 AS n, vcpus, memory_mb FROM spans
                       UNION ALL SELECT ended_at, -1, -vcpus, -memory_mb FROM spans WHERE ended_at < $3) c
                GROUP BY at),
           totals AS (
               SELECT at, floor(extract(epoch FROM at - $2) / $4)::int AS bucket, sum(n) OVER w AS running,
                      sum(vcpus) OVER w AS vcpus, sum(memory_mb) OVER w AS memory_mb
                 FROM changes WINDOW w AS (ORDER BY at))
           SELECT bucket, max(running)::bigint AS running, max(vcpus)::bigint AS vcpus, max(memory_mb)::bigint AS memory_mb,
                  (array_agg(running ORDER BY at DESC))[1]::bigint AS last_running,
                  (array_agg(vcpus ORDER BY at DESC))[1]::bigint AS last_vcpus,
                  (array_agg(memory_mb ORDER BY at DESC))[1]::bigint AS last_memory_mb
             FROM totals GROUP BY bucket ORDER BY bucket""",
        team_id,
        start,
        end,
        seconds,
    )
    return rows(records, BucketRow)


# Old ones


async def lease(tx: Connection) -> bool:
    """Until the end of the transaction; False: another control plane has it."""
    return await leases.alone(tx, _ROLLING_UP)


async def roll_up(tx: Connection, before: date, limit: int) -> int:
    """Makes rows of single sandboxes into rows of their team. Returns how many went."""
    return await tx.fetchval(
        f"""WITH old AS (
                DELETE FROM usage_days WHERE ctid = ANY (ARRAY (
                    SELECT ctid FROM usage_days WHERE sandbox_id <> '' AND day < $2 ORDER BY day LIMIT $3))
                RETURNING *),
            kept AS (
                INSERT INTO usage_days AS u (sandbox_id, day, team_id, cpu_ms, memory_mb_ms, disk_mb_ms, egress_bytes)
                SELECT '', day, team_id, least(sum(cpu_ms), $1::bigint), least(sum(memory_mb_ms), $1),
                       least(sum(disk_mb_ms), $1), least(sum(egress_bytes), $1)
                  FROM old GROUP BY team_id, day ORDER BY team_id, day
                {_ADD})
            SELECT count(*) FROM old""",  # noqa: S608 - text of ours
        _MOST,
        before,
        limit,
    )


async def expire_draws(tx: Connection, before: datetime, limit: int) -> int:
    """Those that ended before. Returns how many went."""
    done = await tx.execute(
        """DELETE FROM draws WHERE ctid = ANY (ARRAY (
               SELECT ctid FROM draws WHERE ended_at < $1 ORDER BY ended_at LIMIT $2))""",
        before,
        limit,
    )
    return int(done.removeprefix("DELETE "))


async def expire_epochs(tx: Connection, keep_sec: float) -> None:
    """Of agent processes that have sent nothing for so long."""
    await tx.execute("DELETE FROM sample_epochs WHERE seen_at < now() - make_interval(secs => $1)", keep_sec)


_MOST = 10**18
"""In a sample, a sum or a day. No real one comes near, whatever a host may say; the sum of two stays within 64 bits."""
_GAPS_MAX = 100
"""An agent's numbers come in order, so that gaps are those of batches under way."""
_ROLLING_UP = 0x77726E75  # any number that nothing else locks
_ADD = """ON CONFLICT (team_id, day, sandbox_id) DO UPDATE
   SET cpu_ms = least(u.cpu_ms + excluded.cpu_ms, $1),
       memory_mb_ms = least(u.memory_mb_ms + excluded.memory_mb_ms, $1),
       disk_mb_ms = least(u.disk_mb_ms + excluded.disk_mb_ms, $1),
       egress_bytes = least(u.egress_bytes + excluded.egress_bytes, $1)"""
"""To what is there already; $1: the bound."""
