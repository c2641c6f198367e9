"""Snapshots of running sandboxes: rules and order of steps. Intent is written first, then the host acts, then the
result and the name, in one transaction. What is left half done by a crash is removed by `reconcile/snapshots.py`.
"""

from datetime import datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import outcomes, sandboxes, templates
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import pools as db_pools
from wrenn_server.db import snapshots as db_snapshots
from wrenn_server.db import templates as db_templates
from wrenn_server.db.pool import Connection
from wrenn_server.db.snapshots import SnapshotRow
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Conflict, Forbidden, NotFound, Unavailable, WrennError
from wrenn_server.model.ids import new_snapshot_id, parse_snapshot_id
from wrenn_server.model.sandbox import State
from wrenn_server.model.snapshot import SnapshotState
from wrenn_server.model.template import parse_reference
from wrenn_server.wire import agent

log = structlog.get_logger()


async def create(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    *,
    name: str | None = None,
    memory: bool = True,
    replace: bool = True,
) -> SnapshotRow:
    """A snapshot of a running sandbox, which goes on. Answers when it is on the host's disk.

    :param name: `name` or `name:tag` that shall lead to it from now on
    :param memory: False: the disk alone, so that sandboxes made of it boot
    :param replace: False: a name that leads to another snapshot already is refused
    :raises InvalidRequest: the name cannot be one
    :raises Conflict: the sandbox does not run; `template_name_taken`; `snapshot_quota_reached`
    """
    wanted = None if name is None else templates.snapshot_name(name)
    if wanted is not None and not replace:
        await templates.demand_free(cp, team_id, *wanted)
    work = _create(cp, team_id, sandbox_id, wanted, memory=memory, replace=replace)
    return await cp.work.finish(work, f"snapshot {sandbox_id}")


async def page(
    cp: ControlPlane,
    team_id: str,
    *,
    sandbox_id: str | None = None,
    name: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> list[SnapshotRow]:
    """Newest first.

    :param sandbox_id: only of this source; :param name: only those that `name` or `name:tag` leads to
    :raises InvalidRequest: the name cannot be one
    """
    reference = None if name is None else parse_reference(name)
    if reference is not None and reference.namespace not in (None, team_id):
        return []
    return await db_snapshots.page(
        cp.db,
        team_id,
        sandbox_id=sandbox_id,
        name=reference.name.lower() if reference else None,
        tag=reference.tag if reference else None,
        before=before,
        limit=limit,
    )


async def delete(cp: ControlPlane, team_id: str, text: str) -> None:
    """A snapshot by its id or by `name:tag`, or by a name alone the whole template with all its snapshots. What is
    wanted is written down; when the host is away, its disk is freed later.

    :raises NotFound: also the second time; :raises Forbidden: it is the platform's
    :raises Conflict: `snapshot_in_use`, sandboxes that were started from it have not ended
    """
    await cp.work.finish(_delete(cp, team_id, text), f"delete {text[:100]}")


async def remove(cp: ControlPlane, row: SnapshotRow) -> None:
    """The host drops what it has of a snapshot in `deleting`, and then so do we.

    :raises WrennError: not now
    """
    if row.host_id is not None:
        host = await db_hosts.get(cp.db, row.host_id)
        if host is not None and host.status != "online":
            raise Unavailable(f"the host of snapshot {row.id} is not reachable")
        if host is not None:
            await cp.hosts.delete_snapshot(cp.host(host.id, host.address), row.id)
    if row.stored_in is not None:
        for other in await db_hosts.listing(cp.db):  # who has fetched it
            if other.status == "online" and other.store == row.stored_in and other.id != row.host_id:
                await cp.hosts.delete_snapshot(cp.host(other.id, other.address), row.id)
    crash_point("delete.host_answered")
    await db_snapshots.delete(cp.db, row.id)
    crash_point("delete.row_removed")


async def _create(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    name: tuple[str, str] | None,
    *,
    memory: bool,
    replace: bool,
) -> SnapshotRow:
    source = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(source, State.RUNNING, "snapshot")
    host = await sandboxes.host_of(cp, source)
    snapshot_id = new_snapshot_id()
    with cp.work.leased([snapshot_id]):
        async with cp.db.transaction() as tx:
            await _demand_room(tx, team_id)
            new = await db_snapshots.insert(
                tx, snapshot_id, sandbox_id=source.id, generation=source.generation, memory=memory
            )
        if new is None:
            raise outcomes.changed(source)
        crash_point("snapshot.row_written")
        message = agent.Snapshot(generation=source.generation, id=snapshot_id, memory=memory)
        try:
            report = await cp.hosts.snapshot(host, source.id, message)
        except WrennError as error:
            log.warning(
                "snapshot failed", action="snapshot_failed", sandbox_id=source.id, error=error.message
            )
            await _give_up(cp, new)
            raise await outcomes.failed(cp, source, host, error, "snapshot") from error
        crash_point("snapshot.host_answered")
        try:
            async with cp.db.transaction() as tx:
                settled = await db_snapshots.settle(tx, snapshot_id, report.size_bytes)
                if settled and name is not None:
                    await templates.put(tx, team_id, *name, snapshot_id, replace=replace)
        except Conflict:  # somebody else has taken the name meanwhile
            await _give_up(cp, new)
            raise
        crash_point("snapshot.row_settled")
        made = await db_snapshots.get(cp.db, snapshot_id) if settled else None
        if made is None:
            raise Unavailable(f"the snapshot of sandbox {source.id} took too long and was given up")
        return made


async def _demand_room(tx: Connection, team_id: str) -> None:
    """A team's snapshots may take as much disk as it has bought for its sandboxes; the last one may go beyond.

    :raises Conflict: `snapshot_quota_reached`"""
    pool = await db_pools.lock(tx, team_id)
    if pool is None:
        return
    taken = await db_snapshots.taken(tx, team_id)
    if taken >= pool.disk_mb << 20:
        raise Conflict(
            f"the team's snapshots take {taken >> 20} MiB, and may take the {pool.disk_mb} MiB of its pool's disk",
            code="snapshot_quota_reached",
            hint="delete snapshots, or raise the pool's disk",
        )


async def _delete(cp: ControlPlane, team_id: str, text: str) -> None:
    template_id, ids = await _named(cp, team_id, text)
    with cp.work.leased(ids):
        async with cp.db.transaction() as tx:
            rows = [r for r in await db_snapshots.lock(tx, ids) if r.state is SnapshotState.READY]
            if not rows and template_id is None:
                raise _not_found(text)
            if users := await db_snapshots.users(tx, ids):
                raise Conflict(
                    f"{len(users)} sandboxes live on this snapshot: {', '.join(users[:10])}",
                    code="snapshot_in_use",
                    hint="kill them first",
                )
            await db_snapshots.begin_delete(tx, [r.id for r in rows])
            await db_templates.untag(tx, ids)
            if template_id is not None:
                await db_templates.delete(tx, template_id)
        crash_point("delete.rows_written")
        for row in rows:
            await _remove(cp, row)


async def _named(cp: ControlPlane, team_id: str, text: str) -> tuple[str | None, list[str]]:
    """The template that goes as a whole, if one does, and the snapshots."""
    reference = parse_reference(text)
    if snapshot_id := parse_snapshot_id(reference.name):
        row = await db_snapshots.get(cp.db, snapshot_id)
        if row is None or row.team_id != team_id:
            raise _not_found(text)
        return None, [row.id]
    template = await templates.find(cp, team_id, reference, text)
    if template.team_id != team_id:
        raise Forbidden(f"template {template.name} is the platform's", code="template_forbidden")
    if reference.tag is not None:
        if template.snapshot_id is None:
            raise _not_found(text)
        return None, [template.snapshot_id]
    tags = await db_templates.tags(cp.db, template.id)
    return template.id, sorted({tag.snapshot_id for tag in tags})


async def _give_up(cp: ControlPlane, row: SnapshotRow) -> None:
    if await db_snapshots.give_up(cp.db, row.id):
        cp.work.later(_remove(cp, row), f"clear up {row.id}")


async def _remove(cp: ControlPlane, row: SnapshotRow) -> None:
    try:
        await remove(cp, row)
    except WrennError as error:
        # What is wanted is written down: the reconciler goes on with it.
        log.warning(
            "snapshot is deleted later", action="delete_deferred", snapshot_id=row.id, error=error.message
        )


def _not_found(text: str) -> NotFound:
    return NotFound(f"snapshot {text[:100]!r} does not exist", code="snapshot_not_found")
