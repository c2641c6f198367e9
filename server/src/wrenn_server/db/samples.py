"""What sandboxes used, every few seconds."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from wrenn_server.db import leases
from wrenn_server.db.pool import Connection, Executor, rows
from wrenn_server.wire.agent import Sample


class SampleRow(msgspec.Struct, kw_only=True):
    """Sizes in bytes, `cpu_used_pct` of all processors together."""

    sandbox_id: str
    at: datetime
    cpu_count: int
    cpu_used_pct: float
    mem_used: int
    mem_total: int
    mem_cache: int
    disk_used: int
    disk_total: int


async def insert(db: Executor, host_id: str, samples: Sequence[Sample]) -> None:
    """Those of sandboxes that are on the host or ended there. A sample that is there already stays as it is."""
    # In order, so that two batches with the same samples do not wait for each other in a circle.
    await db.execute(
        """INSERT INTO samples (sandbox_id, at, cpu_count, cpu_used_pct, mem_used, mem_total, mem_cache, disk_used,
                                disk_total)
           SELECT n.sandbox_id, to_timestamp(n.at), n.cpu_count, n.cpu_used_pct, n.mem_used, n.mem_total, n.mem_cache,
                  n.disk_used, n.disk_total
             FROM json_to_recordset($2::json)
               AS n (sandbox_id text, at float8, cpu_count int, cpu_used_pct real, mem_used bigint, mem_total bigint,
                     mem_cache bigint, disk_used bigint, disk_total bigint)
             JOIN sandboxes s ON s.id = n.sandbox_id AND s.host_id = $1
            ORDER BY n.sandbox_id, n.at
           ON CONFLICT DO NOTHING""",
        host_id,
        as_json(samples),
    )


def as_json(samples: Sequence[Sample]) -> str:
    """For `json_to_recordset`: an array of each field took a control plane of 1,000 hosts 0.09 cores more
    (`bench/scale.py`)."""
    return msgspec.json.encode(samples).decode()


async def between(
    db: Executor, sandbox_id: str, start: datetime, end: datetime, *, limit: int
) -> list[SampleRow]:
    """Oldest first, both ends included. Of more than `limit` as many, evenly from all of them, the newest always."""
    records = await db.fetch(
        """SELECT * FROM (SELECT *, row_number() OVER (ORDER BY at) AS n, count(*) OVER () AS total
                            FROM samples WHERE sandbox_id = $1 AND at BETWEEN $2 AND $3) s
            WHERE total <= $4 OR n * $4 / total > (n - 1) * $4 / total
            ORDER BY at""",
        sandbox_id,
        start,
        end,
        limit,
    )
    return rows(records, SampleRow)


async def newest(db: Executor, team_id: str, sandbox_ids: Sequence[str]) -> list[SampleRow]:
    """The newest sample of each of the team's sandboxes that has one."""
    records = await db.fetch(
        """SELECT n.* FROM sandboxes s
             CROSS JOIN LATERAL (SELECT * FROM samples WHERE sandbox_id = s.id ORDER BY at DESC LIMIT 1) n
            WHERE s.id = ANY($2) AND s.team_id = $1""",
        team_id,
        list(sandbox_ids),
    )
    return rows(records, SampleRow)


async def expire(tx: Connection, keep_sec: float, limit: int) -> int:
    """Deletes samples that are older, at most `limit`. Returns how many; 0 also while another control plane is at it."""
    if not await leases.alone(tx, _EXPIRING):
        return 0
    done = await tx.execute(
        """DELETE FROM samples WHERE ctid = ANY (ARRAY (
               SELECT ctid FROM samples WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2))""",
        keep_sec,
        limit,
    )
    return int(done.removeprefix("DELETE "))


_EXPIRING = 0x77726E73  # any number that nothing else locks
