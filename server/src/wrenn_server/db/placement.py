"""Hosts with room for a sandbox."""

from collections.abc import Sequence

from wrenn_server.db.hosts import Candidate
from wrenn_server.db.pool import Executor, rows
from wrenn_server.db.sandboxes import Room


async def choices(
    db: Executor,
    *,
    image: str,
    host_id: str | None,
    store: str | None = None,
    team_id: str,
    tags: Sequence[str] = (),
    availability_zone: str | None = None,
    vcpus: int,
    memory_mb: int,
    disk_mb: int,
    room: Room,
    limit: int,
) -> list[Candidate]:
    """The least loaded hosts that could take the sandbox, in no certain order.

    :param host_id: the only one that comes into question; None: all that have the image
    :param store: identity of the object store that it comes from: all hosts with that one, whether they have the image
        or not; None: it does not
    :param team_id: whose it is: with hosts of its own that have been online those alone, without the ones for everybody
    :param tags: that the host must have, all of them; :param availability_zone: that it must be in; None: any
    """
    records = await db.fetch(
        """SELECT id, address, cpus, memory_mb, disk_mb, cpus_reserved, memory_mb_reserved, disk_mb_reserved, sandboxes,
                  machine, store, draining, team_id, tags, availability_zone,
                  templates @> ARRAY[$1] AS has_image
             FROM hosts
            WHERE status = 'online' AND NOT draining AND ($2::text IS NULL OR id = $2)
              AND team_id IS NOT DISTINCT FROM
                  (SELECT o.team_id FROM hosts o WHERE o.team_id = $11 AND o.status <> 'pending' LIMIT 1)
              AND tags @> $12::text[] AND ($13::text IS NULL OR availability_zone = $13)
              AND CASE WHEN $10::text IS NULL THEN templates @> ARRAY[$1] ELSE store = $10 END
              AND cpus_reserved + $3 <= cpus * $6::float8
              AND memory_mb_reserved + $4 <= memory_mb * $7::float8
              AND disk_mb_reserved + $5 <= disk_mb * $8::float8
            ORDER BY greatest(cpus_reserved / (cpus * $6::float8), memory_mb_reserved / (memory_mb * $7::float8),
                              disk_mb_reserved / (disk_mb * $8::float8)), id
            LIMIT $9""",
        image,
        host_id,
        vcpus,
        memory_mb,
        disk_mb,
        room.cpus,
        room.memory,
        room.disk,
        limit,
        store,
        team_id,
        list(tags),
        availability_zone,
    )
    return rows(records, Candidate)


async def online(db: Executor, team_id: str, image: str) -> tuple[int, int]:
    """How many hosts take sandboxes of the team, full or not; and how many of them have the image."""
    [record] = await db.fetch(
        """SELECT count(*) AS all, count(*) FILTER (WHERE templates @> ARRAY[$2]) AS with_image FROM hosts
            WHERE status = 'online' AND NOT draining AND team_id IS NOT DISTINCT FROM
                  (SELECT o.team_id FROM hosts o WHERE o.team_id = $1 AND o.status <> 'pending' LIMIT 1)""",
        team_id,
        image,
    )
    return record["all"], record["with_image"]
