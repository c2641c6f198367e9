"""Sandboxes: what the control plane wants and believes of each.

Changes of its state are in `transitions.py`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from wrenn_server.db import actor
from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.model.sandbox import Activity, Reason, State
from wrenn_server.wire.agent import KeepAlive, Network

LEASE_SEC = 15.0
"""How long a sandbox whose worker died stays as it was left."""


GO_ON = (Reason.DRAIN, Reason.ROLLBACK)
"""Reasons of those that rest for a moment only: whoever paused them lets them run on."""


class SandboxRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str
    template_id: str
    template: str
    host_id: str | None
    generation: int
    state: State
    vcpus: int
    memory_mb: int
    disk_mb: int
    timeout_sec: int
    on_timeout: str
    pause_memory: bool
    auto_resume: bool
    activity: list[Activity]
    saved_memory: bool | None
    saved_generation: int | None
    """Of a paused one: which it was paused at."""
    stored_generation: int | None
    """The newest that is in an object store."""
    stored_machine: str | None
    stored_in: str | None
    """Identity of that store."""
    metadata: dict[str, str]
    network: Network
    traffic_token: str | None
    mask_host: str | None
    image: str
    snapshot_id: str | None
    access_token: str
    envd_version: str
    reason: str | None
    message: str | None
    console: str | None
    created_at: datetime
    started_at: datetime | None
    last_active_at: datetime | None
    updated_at: datetime
    expires_at: datetime | None
    check_after: datetime | None
    key_id: str | None = None
    """Of the API key that it was made with."""
    host_tags: list[str] = []
    """What a host must have to take it."""
    availability_zone: str | None = None
    """That its host must be in; None: any."""

    @property
    def keep_alive(self) -> KeepAlive | None:
        """For its host."""
        return keep_alive(self.activity, self.timeout_sec)

    @property
    def is_stored(self) -> bool:
        """What it rests on is in an object store: it needs no certain host."""
        return self.saved_generation is not None and self.saved_generation == self.stored_generation


def keep_alive(activity: list[Activity], idle_sec: int) -> KeepAlive | None:
    """:param idle_sec: 0: it never ends"""
    return KeepAlive(by=activity, idle_sec=idle_sec) if activity and idle_sec else None


class New(msgspec.Struct, kw_only=True, frozen=True):
    """What a create decides; the rest comes from the table's defaults."""

    id: str
    team_id: str
    template_id: str
    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    image: str
    snapshot_id: str | None
    timeout_sec: int
    on_timeout: str
    pause_memory: bool
    auto_resume: bool
    activity: Sequence[Activity]
    metadata: Mapping[str, str]
    network: Network
    traffic_token: str | None
    mask_host: str | None
    access_token: str
    key_id: str | None = None
    pool_ticket: int | None = None
    """Its place in the queue for the team's pool."""
    host_tags: Sequence[str] = ()
    availability_zone: str | None = None


class Room(msgspec.Struct, kw_only=True, frozen=True):
    """How much of a host may be promised, as multiples of what it has."""

    cpus: float
    memory: float
    disk: float


class Located(msgspec.Struct, kw_only=True, frozen=True):
    team_id: str
    host_id: str | None
    address: str | None
    state: State
    generation: int
    access_token: str
    auto_resume: bool
    traffic_token: str | None
    mask_host: str | None


async def insert(db: Executor, new: New, host_id: str, room: Room) -> SandboxRow | None:
    """A sandbox that is starting on a host; None when the host has meanwhile no room for it or went away.

    :raises PoolExhausted: the team's pool has no room"""
    inserted = await insert_many(db, [new], host_id, room)
    return inserted[0] if inserted else None


async def insert_many(db: Executor, new: Sequence[New], host_id: str, room: Room) -> list[SandboxRow]:
    """All of them or none. The host's row is locked, so that two creates cannot both take the last room. Raises as
    `insert`."""
    records = await db.fetch(
        """WITH new AS (
               SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::int[], $7::int[],
                                    $8::int[], $9::text[], $10::jsonb[], $11::text[], $17::text[], $18::text[],
                                    $19::bool[], $20::bool[], $21::jsonb[], $22::text[], $23::text[], $25::text[],
                                    $26::text[], $27::bigint[], $28::text[], $29::text[])
                 AS n (id, team_id, template_id, template, vcpus, memory_mb, disk_mb, timeout_sec, on_timeout,
                       metadata, access_token, image, snapshot_id, pause_memory, auto_resume, network,
                       traffic_token, mask_host, activity, key_id, pool_ticket, host_tags, availability_zone)),
           wanted AS (SELECT sum(vcpus) AS cpus, sum(memory_mb) AS memory, sum(disk_mb) AS disk FROM new),
           host AS (
               SELECT h.id FROM hosts h, wanted w
                WHERE h.id = $12 AND h.status = 'online' AND NOT h.draining
                  AND (h.team_id IS NULL OR h.team_id = ALL($2::text[]))
                  AND h.cpus_reserved + w.cpus <= h.cpus * $13::float8
                  AND h.memory_mb_reserved + w.memory <= h.memory_mb * $14::float8
                  AND h.disk_mb_reserved + w.disk <= h.disk_mb * $15::float8
                  FOR UPDATE OF h)
           INSERT INTO sandboxes (id, team_id, template_id, template, host_id, state, vcpus, memory_mb, disk_mb,
                                  timeout_sec, on_timeout, metadata, access_token, check_after, image, snapshot_id,
                                  pause_memory, auto_resume, network, traffic_token, mask_host, actor,
                                  activity, key_id, pool_ticket, host_tags, availability_zone)
           SELECT n.id, n.team_id, n.template_id, n.template, host.id, 'starting', n.vcpus, n.memory_mb, n.disk_mb,
                  n.timeout_sec, n.on_timeout, n.metadata, n.access_token, now() + make_interval(secs => $16),
                  n.image, n.snapshot_id, n.pause_memory, n.auto_resume, n.network, n.traffic_token, n.mask_host,
                  $24, string_to_array(n.activity, ','), n.key_id, n.pool_ticket,
                  string_to_array(n.host_tags, ','), n.availability_zone
             FROM new n, host
           RETURNING *""",
        [n.id for n in new],
        [n.team_id for n in new],
        [n.template_id for n in new],
        [n.template for n in new],
        [n.vcpus for n in new],
        [n.memory_mb for n in new],
        [n.disk_mb for n in new],
        [n.timeout_sec for n in new],
        [n.on_timeout for n in new],
        [n.metadata for n in new],
        [n.access_token for n in new],
        host_id,
        room.cpus,
        room.memory,
        room.disk,
        LEASE_SEC,
        [n.image for n in new],
        [n.snapshot_id for n in new],
        [n.pause_memory for n in new],
        [n.auto_resume for n in new],
        [n.network for n in new],
        [n.traffic_token for n in new],
        [n.mask_host for n in new],
        actor.current.get(),
        [",".join(n.activity) for n in new],  # an array of arrays would have to be rectangular
        [n.key_id for n in new],
        [n.pool_ticket for n in new],
        [",".join(sorted(set(n.host_tags))) for n in new],
        [n.availability_zone for n in new],
    )
    return rows(records, SandboxRow)


async def get(db: Executor, sandbox_id: str) -> SandboxRow | None:
    return row(await db.fetchrow("SELECT * FROM sandboxes WHERE id = $1", sandbox_id), SandboxRow)


async def locate(db: Executor, sandbox_id: str) -> Located | None:
    record = await db.fetchrow(
        """SELECT s.team_id, s.host_id, h.address, s.state, s.generation, s.access_token, s.auto_resume,
                  s.traffic_token, s.mask_host
             FROM sandboxes s LEFT JOIN hosts h ON h.id = s.host_id WHERE s.id = $1""",
        sandbox_id,
    )
    return row(record, Located)


async def set_timeout(
    db: Executor, seen: SandboxRow, timeout_sec: int, expires_at: datetime | None
) -> SandboxRow | None:
    """What its host was told. None: the row has changed since it was `seen`, which was before the host was told;
    whoever then tells the host again, and tries again, leaves row and host with the same word."""
    record = await db.fetchrow(
        """UPDATE sandboxes SET timeout_sec = $5, expires_at = $6, updated_at = clock_timestamp()
            WHERE id = $1 AND generation = $2 AND state = $3 AND updated_at = $4 RETURNING *""",
        seen.id,
        seen.generation,
        seen.state.value,
        seen.updated_at,
        timeout_sec,
        expires_at,
    )
    return row(record, SandboxRow)


async def note_expiry(db: Executor, host_id: str, found: Sequence[tuple[str, int, datetime]]) -> None:
    """What a host has put off because they are used: ids, generations and times. One that is told late changes nothing
    but what is shown, until it is put off the next time."""
    await db.execute(
        """UPDATE sandboxes s SET expires_at = f.at
             FROM (SELECT s.id, f.at FROM unnest($2::text[], $3::int[], $4::timestamptz[]) AS f (id, generation, at)
                     JOIN sandboxes s ON s.id = f.id AND s.host_id = $1 AND s.generation = f.generation
                      AND s.state = 'running' AND s.activity <> '{}' AND s.expires_at < f.at
                    ORDER BY s.id FOR UPDATE OF s) f
            WHERE s.id = f.id""",
        host_id,
        [id for id, _, _ in found],
        [generation for _, generation, _ in found],
        [at for _, _, at in found],
    )


async def set_network(db: Executor, seen: SandboxRow, network: Network) -> SandboxRow | None:
    """As `set_timeout`."""
    record = await db.fetchrow(
        """UPDATE sandboxes SET network = $5, updated_at = clock_timestamp()
            WHERE id = $1 AND generation = $2 AND state = $3 AND updated_at = $4 RETURNING *""",
        seen.id,
        seen.generation,
        seen.state.value,
        seen.updated_at,
        network,
    )
    return row(record, SandboxRow)


async def touch(db: Executor, active: Mapping[str, datetime]) -> None:
    """Notes when sandboxes were last used, many at once."""
    await db.execute(
        """UPDATE sandboxes s SET last_active_at = a.at
             FROM (SELECT s.id, a.at FROM unnest($1::text[], $2::timestamptz[]) AS a (id, at)
                     JOIN sandboxes s ON s.id = a.id ORDER BY s.id FOR UPDATE OF s) a
            WHERE s.id = a.id""",
        list(active.keys()),
        list(active.values()),
    )


async def note_stored(db: Executor, host_id: str, store: str, found: Sequence[tuple[str, int, str]]) -> None:
    """What a host says is in its object store: ids, generations and machines."""
    await db.execute(
        """UPDATE sandboxes s SET stored_generation = f.generation, stored_machine = f.machine, stored_in = $2
             FROM (SELECT s.id, f.generation, f.machine
                     FROM unnest($3::text[], $4::int[], $5::text[]) AS f (id, generation, machine)
                     JOIN sandboxes s ON s.id = f.id AND s.host_id = $1 AND s.saved_generation = f.generation
                      AND (s.stored_generation, s.stored_machine, s.stored_in)
                          IS DISTINCT FROM (f.generation, f.machine, $2)
                    ORDER BY s.id FOR UPDATE OF s) f
            WHERE s.id = f.id""",
        host_id,
        store,
        [id for id, _, _ in found],
        [generation for _, generation, _ in found],
        [machine for _, _, machine in found],
    )


async def of(db: Executor, ids: Sequence[str]) -> list[SandboxRow]:
    return rows(await db.fetch("SELECT * FROM sandboxes WHERE id = ANY($1)", list(ids)), SandboxRow)


async def alive_on(db: Executor, host_id: str) -> list[SandboxRow]:
    records = await db.fetch(
        "SELECT * FROM sandboxes WHERE host_id = $1 AND state NOT IN ('failed', 'killed') ORDER BY id",
        host_id,
    )
    return rows(records, SandboxRow)


async def of_deleted_teams(db: Executor) -> list[SandboxRow]:
    records = await db.fetch(
        """SELECT s.* FROM teams t JOIN sandboxes s ON s.team_id = t.id
            WHERE t.deleted_at IS NOT NULL AND s.state NOT IN ('failed', 'killed') ORDER BY s.id LIMIT 100"""
    )
    return rows(records, SandboxRow)
