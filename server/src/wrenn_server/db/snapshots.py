"""Snapshots. `check_after` is the lease, as for sandboxes.

Whoever starts a sandbox from a snapshot locks its row until the sandbox is on record (`hold`), and whoever deletes it
locks it before looking for such sandboxes (`lock`): a snapshot that something lives on cannot go.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from wrenn_server.db import actor
from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.db.sandboxes import LEASE_SEC
from wrenn_server.model.snapshot import SnapshotState


class SnapshotRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str
    sandbox_id: str
    """The source."""
    template_id: str
    template: str
    image: str
    """What the source's disk lies on."""
    host_id: str | None
    """Where it is; None: that host was removed."""
    state: SnapshotState
    memory: bool
    vcpus: int
    memory_mb: int
    disk_mb: int
    size_bytes: int
    stored_machine: str | None
    """It is in an object store, for hosts with this machine."""
    stored_in: str | None
    created_at: datetime
    updated_at: datetime
    names: list[str] = []
    """`name:tag` of all that lead to it."""


_NAMES = """array(SELECT t.name || ':' || g.tag FROM template_tags g JOIN templates t ON t.id = g.template_id
                   WHERE g.snapshot_id = s.id ORDER BY 1) AS names"""
_END = (datetime.max.replace(tzinfo=UTC), "")


async def insert(
    db: Executor, id: str, *, sandbox_id: str, generation: int, memory: bool
) -> SnapshotRow | None:
    """One that is being made of a sandbox. None: the sandbox does not run any more, or not as thought."""
    record = await db.fetchrow(
        """INSERT INTO snapshots (id, team_id, sandbox_id, template_id, template, image, host_id, state, memory,
                                  vcpus, memory_mb, disk_mb, check_after, actor)
           SELECT $1, s.team_id, s.id, s.template_id, s.template, s.image, s.host_id, 'creating', $4,
                  s.vcpus, s.memory_mb, s.disk_mb, now() + make_interval(secs => $5), $6
             FROM sandboxes s WHERE s.id = $2 AND s.generation = $3 AND s.state = 'running'
        RETURNING *""",
        id,
        sandbox_id,
        generation,
        memory,
        LEASE_SEC,
        actor.current.get(),
    )
    return row(record, SnapshotRow)


async def taken(db: Executor, team_id: str) -> int:
    """Bytes of the disk that a team's snapshots take; of one that is being made its memory."""
    found = await db.fetchval(
        """SELECT coalesce(sum(CASE WHEN state <> 'creating' THEN size_bytes
                                    WHEN memory THEN memory_mb::bigint << 20 ELSE 0 END), 0)::bigint
             FROM snapshots WHERE team_id = $1""",
        team_id,
    )
    assert isinstance(found, int)  # noqa: S101 - a bigint
    return found


async def settle(db: Executor, id: str, size_bytes: int) -> bool:
    """creating → ready. False: it was given up meanwhile."""
    return (
        await db.execute(
            """UPDATE snapshots SET state = 'ready', size_bytes = $2, updated_at = now(), check_after = NULL
                WHERE id = $1 AND state = 'creating'""",
            id,
            size_bytes,
        )
        != "UPDATE 0"
    )


async def note_stored(db: Executor, host_id: str, store: str, found: Mapping[str, str]) -> None:
    """What a host says is in its object store: ids and machines."""
    await db.execute(
        """UPDATE snapshots s SET stored_machine = f.machine, stored_in = $2
             FROM (SELECT s.id, f.machine FROM unnest($3::text[], $4::text[]) AS f (id, machine)
                     JOIN snapshots s ON s.id = f.id AND s.host_id = $1 AND s.state = 'ready'
                      AND (s.stored_machine IS DISTINCT FROM f.machine OR s.stored_in IS DISTINCT FROM $2)
                    ORDER BY s.id FOR UPDATE OF s) f
            WHERE s.id = f.id""",
        host_id,
        store,
        list(found.keys()),
        list(found.values()),
    )


async def unstored_on(db: Executor, host_id: str) -> list[SnapshotRow]:
    """Those that are on that host and in no object store."""
    records = await db.fetch(
        "SELECT * FROM snapshots WHERE host_id = $1 AND state = 'ready' AND stored_in IS NULL ORDER BY id",
        host_id,
    )
    return rows(records, SnapshotRow)


async def get(db: Executor, id: str) -> SnapshotRow | None:
    return row(await db.fetchrow(f"SELECT s.*, {_NAMES} FROM snapshots s WHERE id = $1", id), SnapshotRow)  # noqa: S608 - text of ours


async def page(
    db: Executor,
    team_id: str,
    *,
    sandbox_id: str | None,
    name: str | None,
    tag: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[SnapshotRow]:
    """Those that are ready, newest first.

    :param sandbox_id: only of this source; :param name: only those that a tag of this template leads to
    """
    records = await db.fetch(
        f"""SELECT s.*, {_NAMES} FROM snapshots s
             WHERE s.team_id = $1 AND s.state = 'ready' AND (s.created_at, s.id) < ($2, $3)
               AND ($4::text IS NULL OR s.sandbox_id = $4)
               AND ($5::text IS NULL OR EXISTS (
                   SELECT FROM template_tags g JOIN templates t ON t.id = g.template_id
                    WHERE g.snapshot_id = s.id AND t.name = $5 AND ($6::text IS NULL OR g.tag = $6)))
             ORDER BY s.created_at DESC, s.id DESC LIMIT $7""",  # noqa: S608 - text of ours
        team_id,
        *(before or _END),
        sandbox_id,
        name,
        tag,
        limit,
    )
    return rows(records, SnapshotRow)


async def of_template(db: Executor, template_id: str) -> list[SnapshotRow]:
    """Those that its tags lead to, newest first."""
    records = await db.fetch(
        """SELECT * FROM snapshots
            WHERE id IN (SELECT snapshot_id FROM template_tags WHERE template_id = $1) AND state = 'ready'
            ORDER BY created_at DESC, id DESC""",
        template_id,
    )
    return rows(records, SnapshotRow)


async def hold(db: Executor, id: str) -> bool:
    """Until the transaction ends, the snapshot stays usable. False: it is not."""
    return (
        await db.fetchval("SELECT 1 FROM snapshots WHERE id = $1 AND state = 'ready' FOR SHARE", id)
    ) is not None


async def lock(db: Executor, ids: Sequence[str]) -> list[SnapshotRow]:
    """Until the transaction ends, nobody else changes these or starts anything from them."""
    records = await db.fetch("SELECT * FROM snapshots WHERE id = ANY($1) ORDER BY id FOR UPDATE", list(ids))
    return rows(records, SnapshotRow)


async def users(db: Executor, ids: Sequence[str]) -> list[str]:
    """Sandboxes that were started from these and have not ended."""
    records = await db.fetch(
        """SELECT id FROM sandboxes WHERE snapshot_id = ANY($1) AND state NOT IN ('failed', 'killed')
            ORDER BY created_at, id""",
        list(ids),
    )
    return [record["id"] for record in records]


async def begin_delete(db: Executor, ids: Sequence[str]) -> None:
    """ready → deleting, of locked rows."""
    await db.execute(
        """UPDATE snapshots SET state = 'deleting', actor = $3, updated_at = now(),
                  check_after = now() + make_interval(secs => $2)
            WHERE id = ANY($1) AND state = 'ready'""",
        list(ids),
        LEASE_SEC,
        actor.current.get(),
    )


async def give_up(db: Executor, id: str) -> bool:
    """creating → deleting. False: it was finished, or is gone."""
    return (
        await db.execute(
            """UPDATE snapshots SET state = 'deleting', updated_at = now(),
                      check_after = now() + make_interval(secs => $2)
                WHERE id = $1 AND state IN ('creating', 'deleting')""",
            id,
            LEASE_SEC,
        )
        != "UPDATE 0"
    )


async def delete(db: Executor, id: str) -> None:
    """The host has nothing of it any more."""
    await db.execute("DELETE FROM snapshots WHERE id = $1 AND state = 'deleting'", id)


async def claim(db: Executor, limit: int) -> list[SnapshotRow]:
    """Takes over those whose worker has died, with a new lease."""
    records = await db.fetch(
        """UPDATE snapshots SET check_after = now() + make_interval(secs => $2)
            WHERE id IN (SELECT id FROM snapshots WHERE check_after <= now()
                          ORDER BY check_after LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING *""",
        limit,
        LEASE_SEC,
    )
    return rows(records, SnapshotRow)


async def extend(db: Executor, ids: Sequence[str]) -> None:
    """Whoever works on these is still at it."""
    await db.execute(
        """UPDATE snapshots SET check_after = now() + make_interval(secs => $2)
            WHERE id IN (SELECT id FROM snapshots WHERE id = ANY($1) AND check_after IS NOT NULL
                          ORDER BY id FOR UPDATE SKIP LOCKED)""",
        list(ids),
        LEASE_SEC,
    )


async def release(db: Executor, id: str, delay_sec: float) -> None:
    """Gives a claimed row back: to be tried again after `delay_sec`."""
    await db.execute(
        "UPDATE snapshots SET check_after = now() + make_interval(secs => $2) WHERE id = $1", id, delay_sec
    )
