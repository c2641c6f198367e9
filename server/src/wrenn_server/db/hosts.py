"""Hosts, their registration tokens and what they have free."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.wire.agent import HostSpecs


class HostRow(msgspec.Struct, kw_only=True):
    id: str
    type: str
    team_id: str | None
    """Whose own it is; None: it serves everybody."""
    tags: list[str]
    availability_zone: str | None
    status: str
    address: str | None
    arch: str
    cpus: int
    memory_mb: int
    disk_mb: int
    vmm: str
    vmm_version: str
    accelerated: bool
    version: str
    templates: list[str]
    machine: str
    store: str
    draining: bool
    cpus_reserved: int
    memory_mb_reserved: int
    disk_mb_reserved: int
    sandboxes: int
    token_epoch: int
    renewed_epoch: int
    """Of the token that the last renewal gave out; above `token_epoch` as long as it was not used."""
    agent_started_at: float
    heartbeat_sequence: int
    last_heartbeat_at: datetime | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime


class TokenRow(msgspec.Struct, kw_only=True):
    host_id: str
    expired: bool
    used_at: datetime | None


class Candidate(msgspec.Struct, kw_only=True, frozen=True):
    """A host that has room, as far as one could see. Memory and disk in MiB."""

    id: str
    address: str | None
    cpus: int
    memory_mb: int
    disk_mb: int
    cpus_reserved: int
    memory_mb_reserved: int
    disk_mb_reserved: int
    sandboxes: int
    machine: str = ""
    store: str = ""
    draining: bool = False
    team_id: str | None = None
    tags: list[str] = []
    availability_zone: str | None = None
    has_image: bool = True
    """The root file system of that name is there; it need not be fetched."""


async def insert(
    db: Executor,
    *,
    id: str,
    team_id: str | None = None,
    tags: Sequence[str] = (),
    availability_zone: str | None = None,
    created_by: str | None = None,
) -> HostRow:
    """:param team_id: whose own it is (`byoc`); None: it serves everybody (`regular`)"""
    record = await db.fetchrow(
        """INSERT INTO hosts (id, type, team_id, tags, availability_zone, created_by)
           VALUES ($1, CASE WHEN $2::text IS NULL THEN 'regular' ELSE 'byoc' END, $2, $3, $4, $5) RETURNING *""",
        id,
        team_id,
        sorted(set(tags)),
        availability_zone,
        created_by,
    )
    inserted = row(record, HostRow)
    if inserted is None:
        raise LookupError("INSERT returned nothing")
    return inserted


async def get(db: Executor, host_id: str) -> HostRow | None:
    return row(await db.fetchrow("SELECT * FROM hosts WHERE id = $1", host_id), HostRow)


async def listing(
    db: Executor,
    *,
    team_id: str | None = None,
    type: str | None = None,
    status: str | None = None,
    tags: Sequence[str] = (),
    availability_zone: str | None = None,
    after: tuple[datetime, str] | None = None,
    limit: int | None = None,
) -> list[HostRow]:
    """Those for which all holds that is given; the oldest first.

    :param team_id: whose own they are; :param tags: that they have, all of them
    :param after: created_at and id of the last one before; :param limit: at most so many
    """
    records = await db.fetch(
        """SELECT * FROM hosts
            WHERE ($1::text IS NULL OR team_id = $1) AND ($2::text IS NULL OR type = $2)
              AND ($3::text IS NULL OR status = $3) AND tags @> $4::text[]
              AND ($5::text IS NULL OR availability_zone = $5)
              AND ($6::timestamptz IS NULL OR (created_at, id) > ($6, $7))
            ORDER BY created_at, id LIMIT $8""",
        team_id,
        type,
        status,
        list(tags),
        availability_zone,
        *(after or (None, None)),
        limit,
    )
    return rows(records, HostRow)


async def has_own(db: Executor, team_id: str) -> bool:
    """Whether a team has a host of its own that has been online: then its sandboxes go to those alone."""
    return await db.fetchval(
        "SELECT EXISTS (SELECT FROM hosts WHERE team_id = $1 AND status <> 'pending')", team_id
    )


async def set_traits(
    db: Executor,
    host_id: str,
    *,
    tags: Sequence[str] | None,
    availability_zone: str | None,
    keep_zone: bool,
) -> HostRow | None:
    """:param tags: None: as before; :param keep_zone: the zone stays as before, too"""
    record = await db.fetchrow(
        """UPDATE hosts SET tags = coalesce($2, tags), updated_at = now(),
                  availability_zone = CASE WHEN $4 THEN availability_zone ELSE $3 END
            WHERE id = $1 RETURNING *""",
        host_id,
        None if tags is None else sorted(set(tags)),
        availability_zone,
        keep_zone,
    )
    return row(record, HostRow)


async def delete(db: Executor, host_id: str) -> None:
    await db.execute("DELETE FROM hosts WHERE id = $1", host_id)


async def delete_of_deleted_teams(db: Executor) -> None:
    """Those of a team's own, once they are empty."""
    await db.execute(
        """DELETE FROM hosts h USING teams t
            WHERE t.id = h.team_id AND t.deleted_at IS NOT NULL AND h.sandboxes = 0"""
    )


async def insert_token(db: Executor, *, host_id: str, digest: bytes, lifetime_sec: int) -> None:
    """A new registration token takes the place of the unused ones before it."""
    await db.execute(
        """WITH old AS (DELETE FROM host_tokens WHERE host_id = $1 AND used_at IS NULL)
           INSERT INTO host_tokens (host_id, digest, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))""",
        host_id,
        digest,
        lifetime_sec,
    )


async def token(db: Executor, digest: bytes) -> TokenRow | None:
    record = await db.fetchrow(
        "SELECT host_id, used_at, expires_at < now() AS expired FROM host_tokens WHERE digest = $1", digest
    )
    return row(record, TokenRow)


async def register(db: Executor, *, digest: bytes, address: str | None, specs: HostSpecs) -> HostRow | None:
    """Uses up the token and writes what the host said of itself, or does neither (None): both in one statement, so
    that of two registrations with one token only one succeeds."""
    record = await db.fetchrow(
        """WITH used AS (
               UPDATE host_tokens SET used_at = now()
                WHERE digest = $1 AND used_at IS NULL AND expires_at >= now() RETURNING host_id)
           UPDATE hosts SET address = $2, arch = $3, cpus = $4, memory_mb = $5, disk_mb = $6, vmm = $7,
                  vmm_version = $8, accelerated = $9, version = $10, machine = $11, store = $12,
                  draining = false, installation = '',
                  token_epoch = greatest(token_epoch, renewed_epoch) + 1, updated_at = now()
             FROM used WHERE hosts.id = used.host_id RETURNING hosts.*""",
        digest,
        address,
        *_specs(specs),
    )
    return row(record, HostRow)


async def offer_epoch(db: Executor, host_id: str, epoch: int, installation: str) -> int | None:
    """The epoch of the token that comes after `epoch`, the same however often one asks. None: the host was removed, its
    token is another one by now, or it is not that installation which speaks for it."""
    return await db.fetchval(
        """UPDATE hosts SET renewed_epoch = token_epoch + 1, updated_at = now()
            WHERE id = $1 AND token_epoch = $2 AND installation IN ('', $3) RETURNING renewed_epoch""",
        host_id,
        epoch,
        installation,
    )


async def use_epoch(db: Executor, host_id: str, epoch: int) -> HostRow | None:
    """The token of a renewal is used: the one before is refused from now on. None: it is not one that counts. Of two that
    use it at once both may."""
    record = await db.fetchrow(
        """UPDATE hosts SET token_epoch = $2, updated_at = now()
            WHERE id = $1 AND (token_epoch = $2 OR (token_epoch < $2 AND renewed_epoch = $2)) RETURNING *""",
        host_id,
        epoch,
    )
    return row(record, HostRow)


async def heartbeat(
    db: Executor,
    host_id: str,
    *,
    started_at: float,
    sequence: int,
    address: str | None,
    specs: HostSpecs,
    templates: Sequence[str],
    installation: str,
) -> bool:
    """Writes what a host says of itself; it is online then. False: a later heartbeat has been here already, or one of
    another installation since the host was last silent."""
    return (
        await db.execute(
            """UPDATE hosts SET address = $4, arch = $5, cpus = $6, memory_mb = $7, disk_mb = $8, vmm = $9,
                      vmm_version = $10, accelerated = $11, version = $12, machine = $13, store = $14, templates = $15,
                      status = 'online', installation = $16,
                      agent_started_at = $2, heartbeat_sequence = $3, last_heartbeat_at = now(), updated_at = now()
                WHERE id = $1 AND (agent_started_at, heartbeat_sequence) < ($2, $3) AND installation IN ('', $16)""",
            host_id,
            started_at,
            sequence,
            address,
            *_specs(specs),
            list(templates),
            installation,
        )
        != "UPDATE 0"
    )


async def speaks(db: Executor, host_id: str, installation: str) -> bool:
    """Whether the last heartbeat that counted came from that installation, or from one that had no name."""
    return bool(
        await db.fetchval("SELECT installation IN ('', $2) FROM hosts WHERE id = $1", host_id, installation)
    )


async def set_draining(db: Executor, host_id: str, draining: bool) -> HostRow | None:
    """Whether it is to become empty: nothing new is placed there then."""
    record = await db.fetchrow(
        "UPDATE hosts SET draining = $2, updated_at = now() WHERE id = $1 RETURNING *", host_id, draining
    )
    return row(record, HostRow)


async def draining(db: Executor) -> list[HostRow]:
    """Those that are to become empty and can be reached."""
    records = await db.fetch("SELECT * FROM hosts WHERE draining AND status = 'online' ORDER BY id")
    return rows(records, HostRow)


async def expire(db: Executor, silence_sec: float) -> list[str]:
    """Marks online hosts that have been silent for too long as unreachable. Returns their ids.

    The order of heartbeats starts anew: a host whose clock was set back while it was away must be heard again, and so must
    one whose data directory has moved.
    """
    records = await db.fetch(
        """UPDATE hosts SET status = 'unreachable', agent_started_at = 0, heartbeat_sequence = 0,
                  installation = '', updated_at = now()
            WHERE id IN (SELECT id FROM hosts
                          WHERE status = 'online' AND last_heartbeat_at < now() - make_interval(secs => $1)
                          ORDER BY id FOR UPDATE SKIP LOCKED)
        RETURNING id""",
        silence_sec,
    )
    return [record["id"] for record in records]


def _specs(specs: HostSpecs) -> tuple[object, ...]:
    return (
        specs.arch,
        specs.cpus,
        specs.memory_mb,
        specs.disk_mb,
        specs.vmm,
        specs.vmm_version,
        specs.accelerated,
        specs.version,
        specs.machine,
        specs.store,
    )
