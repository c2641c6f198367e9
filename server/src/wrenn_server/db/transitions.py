"""Changes of a sandbox's state: each a compare-and-set on (id, generation, state).

Statements that touch a sandbox and its host lock the sandbox first. `check_after` is the lease (`leases.py`): whoever
works on a row keeps it in the future.
"""

from collections.abc import Collection
from datetime import datetime

from wrenn_server.db import actor
from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.db.sandboxes import LEASE_SEC, Room, SandboxRow
from wrenn_server.model.sandbox import State


async def begin(
    db: Executor,
    sandbox_id: str,
    generation: int,
    before: Collection[State],
    after: State,
    *,
    reason: str | None = None,
) -> SandboxRow | None:
    """Compare-and-set into a state that somebody now works on. None: the sandbox is not as it was thought to be."""
    record = await db.fetchrow(
        """UPDATE sandboxes SET state = $4, reason = coalesce($6, reason), actor = $7, updated_at = now(),
                  check_after = now() + make_interval(secs => $5)
            WHERE id = $1 AND generation = $2 AND state = ANY($3) RETURNING *""",
        sandbox_id,
        generation,
        [state.value for state in before],
        after.value,
        LEASE_SEC,
        reason,
        actor.current.get(),
    )
    return row(record, SandboxRow)


async def begin_resume(
    db: Executor,
    sandbox_id: str,
    generation: int,
    timeout_sec: int | None,
    room: Room,
    *,
    host_id: str | None = None,
    before: State = State.PAUSED,
    ticket: int | None = None,
) -> SandboxRow | None:
    """paused → resuming with the next generation, if the host is there and has room. None: not so.

    :param host_id: another host than the one that it is on, to which it goes from the object store; None: that one
    :param before: lost, for one that goes back to what of it is in the object store
    :param ticket: its place in the queue for the team's pool
    :raises PoolExhausted: the team's pool has no room
    """
    record = await db.fetchrow(
        """WITH paused AS (
               SELECT * FROM sandboxes WHERE id = $1 AND generation = $2 AND state = $8 FOR UPDATE),
           -- Both hosts, in the order in which everybody locks them
           locked AS (
               SELECT h.* FROM hosts h, paused p WHERE h.id IN (p.host_id, coalesce($7, p.host_id))
                ORDER BY h.id FOR UPDATE OF h),
           host AS (
               SELECT h.id FROM locked h, paused p
                WHERE h.id = coalesce($7, p.host_id) AND h.status = 'online'
                  AND (h.team_id IS NULL OR h.team_id = p.team_id)
                  AND h.cpus_reserved + p.vcpus <= h.cpus * $4::float8
                  AND h.memory_mb_reserved + p.memory_mb <= h.memory_mb * $5::float8
                  AND ($7::text IS NULL OR
                       NOT h.draining AND h.disk_mb_reserved + p.disk_mb <= h.disk_mb * $9::float8))
           UPDATE sandboxes s
              SET state = 'resuming', generation = s.generation + 1, host_id = host.id, pool_ticket = $11,
                  timeout_sec = coalesce($3, s.timeout_sec),
                  saved_generation = CASE WHEN $8 = 'lost' THEN s.stored_generation ELSE s.saved_generation END,
                  actor = $10, updated_at = now(), check_after = now() + make_interval(secs => $6)
             FROM paused, host WHERE s.id = paused.id RETURNING s.*""",
        sandbox_id,
        generation,
        timeout_sec,
        room.cpus,
        room.memory,
        LEASE_SEC,
        host_id,
        before.value,
        room.disk,
        actor.current.get(),
        ticket,
    )
    return row(record, SandboxRow)


async def settle(
    db: Executor,
    sandbox_id: str,
    generation: int,
    before: Collection[State],
    after: State,
    *,
    reason: str | None = None,
    message: str | None = None,
    console: str | None = None,
    envd_version: str | None = None,
    expires_at: datetime | None = None,
    saved_memory: bool | None = None,
    saved_generation: int | None = None,
    started: bool = False,
) -> SandboxRow | None:
    """Compare-and-set into a state that nobody works on. Reason, message, console, the time of its end and whether
    its memory is saved are those given, None included; so is what it rests on, unless it rests still. `started` notes
    the time of a start. None: the sandbox is not as it was thought to be."""
    record = await db.fetchrow(
        """UPDATE sandboxes
              SET state = $4, reason = $5, message = $6, console = $7, envd_version = coalesce($8, envd_version),
                  expires_at = $9, saved_memory = $11, updated_at = now(), check_after = NULL,
                  saved_generation = CASE WHEN $4 = 'paused' THEN coalesce($12, saved_generation) END,
                  started_at = CASE WHEN $10 THEN now() ELSE started_at END,
                  last_active_at = CASE WHEN $10 THEN now() ELSE last_active_at END
            WHERE id = $1 AND generation = $2 AND state = ANY($3) RETURNING *""",
        sandbox_id,
        generation,
        [state.value for state in before],
        after.value,
        reason,
        message,
        console,
        envd_version,
        expires_at,
        started,
        saved_memory,
        saved_generation,
    )
    return row(record, SandboxRow)


async def take_back(db: Executor, resuming: SandboxRow, host_id: str | None) -> SandboxRow | None:
    """resuming → paused, where it was before: the other host has refused it, and nothing of it runs there. None: it is
    not resuming any more."""
    record = await db.fetchrow(
        """UPDATE sandboxes SET state = 'paused', host_id = (SELECT id FROM hosts WHERE id = $3),
                  reason = CASE WHEN reason = 'drain' THEN reason END, message = NULL, updated_at = now(), check_after = NULL
            WHERE id = $1 AND generation = $2 AND state = 'resuming' RETURNING *""",
        resuming.id,
        resuming.generation,
        host_id,
    )
    return row(record, SandboxRow)


async def move(db: Executor, seen: SandboxRow, host_id: str, room: Room) -> bool:
    """A paused sandbox comes to another host. False: it is not as it was when it was `seen`, or has no room there."""
    return (
        await db.execute(
            """WITH paused AS (
                   SELECT * FROM sandboxes WHERE id = $1 AND generation = $2 AND state = 'paused'
                      AND host_id IS NOT DISTINCT FROM $3 FOR UPDATE),
               locked AS (
                   SELECT h.* FROM hosts h, paused p WHERE h.id IN (p.host_id, $4) ORDER BY h.id FOR UPDATE OF h),
               host AS (
                   SELECT h.id FROM locked h, paused p
                    WHERE h.id = $4 AND h.status = 'online' AND NOT h.draining
                      AND (h.team_id IS NULL OR h.team_id = p.team_id)
                      AND h.disk_mb_reserved + p.disk_mb + p.memory_mb <= h.disk_mb * $5::float8)
               UPDATE sandboxes s SET host_id = host.id, updated_at = now()
                 FROM paused, host WHERE s.id = paused.id""",
            seen.id,
            seen.generation,
            seen.host_id,
            host_id,
            room.disk,
        )
        != "UPDATE 0"
    )


async def interrupted(db: Executor, idle_sec: float) -> list[SandboxRow]:
    """Paused for a move to another host or for a rollback, by somebody who has not finished it."""
    records = await db.fetch(  # reasons `GO_ON`, word for word the condition of the index
        """SELECT * FROM sandboxes
            WHERE state = 'paused' AND reason IN ('drain', 'rollback')
              AND updated_at < now() - make_interval(secs => $1)
            ORDER BY updated_at, id LIMIT 64""",
        idle_sec,
    )
    return rows(records, SandboxRow)


async def lose(db: Executor) -> None:
    """What is on unreachable hosts is lost until they are back, but for what rests in an object store. What is being
    killed stays so."""
    await db.execute(
        """UPDATE sandboxes SET state = 'lost', reason = 'host_lost', updated_at = now(), check_after = NULL
            WHERE id IN (SELECT s.id FROM sandboxes s JOIN hosts h ON h.id = s.host_id
                          WHERE h.status = 'unreachable'
                            AND s.state IN ('starting', 'running', 'pausing', 'paused', 'resuming')
                            AND NOT (s.state = 'paused' AND s.saved_generation IS NOT DISTINCT FROM s.stored_generation
                                     AND s.stored_generation IS NOT NULL)
                          ORDER BY s.id FOR UPDATE OF s)"""
    )


async def forget(db: Executor, host_id: str) -> None:
    """The host's record will be deleted: nothing can be done for what was on it, unless it rests in an object store."""
    await db.execute(
        """UPDATE sandboxes SET state = CASE WHEN state = 'killing' THEN 'killed' ELSE 'failed' END,
                  reason = CASE WHEN state = 'killing' THEN reason ELSE 'host_lost' END,
                  message = 'its host was removed', updated_at = now(), check_after = NULL
            WHERE id IN (SELECT id FROM sandboxes WHERE host_id = $1 AND state NOT IN ('failed', 'killed')
                            AND NOT (state = 'paused' AND saved_generation IS NOT DISTINCT FROM stored_generation
                                     AND stored_generation IS NOT NULL)
                          ORDER BY id FOR UPDATE)""",
        host_id,
    )
