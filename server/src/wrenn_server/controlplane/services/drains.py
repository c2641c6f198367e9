"""Hosts that are to become empty: nothing new is placed on them, and what they have goes to others by way of the object
store. Whoever finds a host in that state goes on with it (`reconcile/drains.py`).

```
 running ── pause ──► paused (reason drain) ── store ── resume ──► running on another host, the same generation + 1
 paused ── store ── fetch by another host ──► paused there
```
When no host has room, all stays as it is, and is tried again.
"""

import asyncio

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host
from wrenn_server.controlplane.services import elsewhere, pauses
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import leases, transitions
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import snapshots as db_snapshots
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Conflict, WrennError
from wrenn_server.model.sandbox import Reason, State

AT_ONCE = 2
"""Moves from one host: each keeps a sandbox from its user for as long as it takes."""

log = structlog.get_logger()


async def begin(cp: ControlPlane, host: HostRow) -> HostRow:
    """From now on the host takes nothing new, and what it has is moved. Idempotent.

    :raises Conflict: `no_object_store`, there is no way for what it has"""
    if not host.store and await db_sandboxes.alive_on(cp.db, host.id):
        raise Conflict(
            f"host {host.id} has sandboxes and no object store, by which they could move",
            code="no_object_store",
            hint="set AGENT_OBJECT_STORE of all hosts to the same store, or kill its sandboxes",
        )
    return await _set(cp, host, True)


async def cancel(cp: ControlPlane, host: HostRow) -> HostRow:
    """The host takes part again. What has moved stays where it is. Idempotent."""
    return await _set(cp, host, False)


async def _set(cp: ControlPlane, host: HostRow, draining: bool) -> HostRow:
    log.info("host is to become empty" if draining else "host stays", action="drain", host_id=host.id)
    return await db_hosts.set_draining(cp.db, host.id, draining) or host


async def empty(cp: ControlPlane, host: HostRow) -> None:
    """One round: moves all that can be moved now.

    :raises WrennError: a snapshot is not stored yet"""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(row: SandboxRow) -> None:
        async with limit:
            try:
                await cp.work.finish(_move(cp, host, row), f"move {row.id}")
            except WrennError as error:
                log.warning("not moved yet", action="move_failed", sandbox_id=row.id, error=error.message)

    async with asyncio.TaskGroup() as group:
        for row in await db_sandboxes.alive_on(cp.db, host.id):
            if row.state in (State.RUNNING, State.PAUSED) and row.reason not in db_sandboxes.GO_ON:
                group.create_task(one(row), name=f"move {row.id}")
    for snapshot in await db_snapshots.unstored_on(cp.db, host.id):
        await cp.hosts.store_snapshot(cp.host(host.id, host.address), snapshot.id)
        await db_snapshots.note_stored(cp.db, host.id, host.store, {snapshot.id: host.machine})


async def _move(cp: ControlPlane, host: HostRow, row: SandboxRow) -> None:
    """:raises WrennError: it is where it was, and as it was"""
    if not await elsewhere.has_room(cp, row, host):
        log.info("nowhere to go", action="move_waits", sandbox_id=row.id, host_id=host.id)
        return
    where = cp.host(host.id, host.address)
    with cp.work.leased([row.id]):
        if row.state is State.RUNNING:
            await _running(cp, host, where, row)
        else:
            await _resting(cp, host, where, row)


async def _running(cp: ControlPlane, host: HostRow, where: Host, row: SandboxRow) -> None:
    paused = await pauses.pause(cp, row.team_id, row.id, reason=Reason.DRAIN)
    try:
        await _store(cp, host, where, paused)
    finally:
        # Whatever came of it, here or there it runs on.
        moved = await pauses.go_on(cp, paused, pauses.left_of(row))
        log.info("moved", action="moved", sandbox_id=row.id, before=host.id, after=moved.host_id)


async def _resting(cp: ControlPlane, host: HostRow, where: Host, row: SandboxRow) -> None:
    if not await leases.hold(cp.db, row.id, row.generation):
        return  # another control plane is at it
    try:
        await _store(cp, host, where, row)
        await _fetch_elsewhere(cp, host, row)
    finally:
        await leases.release(cp.db, row.id, row.generation, None)


async def _fetch_elsewhere(cp: ControlPlane, host: HostRow, row: SandboxRow) -> None:
    stored = await db_sandboxes.get(cp.db, row.id)
    if stored is None or stored.state is not State.PAUSED or stored.stored_generation is None:
        return
    async for target in elsewhere.hosts(cp, stored):
        await cp.hosts.fetch(target, row.id, stored.stored_generation)
        crash_point("move.fetched")
        if await transitions.move(cp.db, stored, target.id, cp.config.room):
            crash_point("move.row_settled")
            log.info("moved", action="moved", sandbox_id=row.id, before=host.id, after=target.id)
            await pauses.forget(cp, row.id, host.id, stored.generation)
        elif not await _is_on(cp, row.id, target):  # resumed or killed meanwhile, or no room after all
            await cp.hosts.kill(target, row.id, stored.stored_generation, elsewhere=True)
        return


async def _is_on(cp: ControlPlane, sandbox_id: str, host: Host) -> bool:
    now = await db_sandboxes.get(cp.db, sandbox_id)
    return now is not None and now.host_id == host.id


async def _store(cp: ControlPlane, host: HostRow, where: Host, row: SandboxRow) -> None:
    if row.saved_generation is None:
        raise Conflict(f"sandbox {row.id} is not known to rest on anything")
    if not row.is_stored:
        await cp.hosts.store(where, row.id, row.saved_generation)
        crash_point("move.stored")
        found = [(row.id, row.saved_generation, host.machine)]
        await db_sandboxes.note_stored(cp.db, host.id, host.store, found)
