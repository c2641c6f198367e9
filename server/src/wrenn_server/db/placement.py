"""What the scheduler must know, in one statement: the template, and hosts with room for the sandbox."""

import msgspec

from wrenn_server.db.hosts import Candidate
from wrenn_server.db.pool import Executor, rows
from wrenn_server.db.sandboxes import Room


class Choice(msgspec.Struct, kw_only=True):
    template_id: str
    image: str
    candidates: list[Candidate]


async def choices(
    db: Executor,
    *,
    team_id: str,
    template: str,
    vcpus: int,
    memory_mb: int,
    disk_mb: int,
    room: Room,
    limit: int,
) -> Choice | None:
    """The least loaded hosts that could take the sandbox, in no certain order. None: there is no such template."""
    records = await db.fetch(
        """SELECT t.id AS template_id, t.image, h.*
             FROM (SELECT id, image FROM templates
                    WHERE name = $2 AND (team_id = $1 OR team_id IS NULL) AND image IS NOT NULL
                    ORDER BY team_id NULLS LAST LIMIT 1) t
             LEFT JOIN LATERAL (
                 SELECT id, address, cpus, memory_mb, disk_mb, cpus_reserved, memory_mb_reserved, disk_mb_reserved,
                        sandboxes
                   FROM hosts
                  WHERE status = 'online' AND templates @> ARRAY[t.image]
                    AND cpus_reserved + $3 <= cpus * $6::float8
                    AND memory_mb_reserved + $4 <= memory_mb * $7::float8
                    AND disk_mb_reserved + $5 <= disk_mb * $8::float8
                  ORDER BY greatest(cpus_reserved / (cpus * $6::float8), memory_mb_reserved / (memory_mb * $7::float8),
                                    disk_mb_reserved / (disk_mb * $8::float8)), id
                  LIMIT $9) h ON true""",
        team_id,
        template,
        vcpus,
        memory_mb,
        disk_mb,
        room.cpus,
        room.memory,
        room.disk,
        limit,
    )
    if not records:
        return None
    template_id = str(records[0]["template_id"])
    return Choice(
        template_id=template_id,
        image=str(records[0]["image"]),
        candidates=rows([r for r in records if r["id"] is not None], Candidate),
    )
