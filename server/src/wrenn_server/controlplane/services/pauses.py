"""Pausing and resuming: rules and order of steps, as in `sandboxes.py`. A failed pause leaves the sandbox running, a
failed resume leaves it paused; what is true is what the host says."""

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host, Unreachable
from wrenn_server.controlplane.services import elsewhere, outcomes, sandboxes
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import Conflict, Unavailable, WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent

log = structlog.get_logger()


async def pause(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    *,
    memory: bool = True,
    reason: Reason | None = None,
) -> SandboxRow:
    """
    :param memory: False: keep the disk alone; programs end, and the resume boots
    :raises Conflict: it is not running
    """
    return await cp.work.finish(_pause(cp, team_id, sandbox_id, memory, reason), f"pause {sandbox_id}")


async def resume(
    cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None, *, memory: bool = True
) -> SandboxRow:
    """
    :param timeout_sec: it ends so long after; 0: never; None: as before
    :param memory: False: boot from the disk even if memory was saved
    :raises Conflict: it is not paused
    :raises Unavailable: its host is away or has no room now, and no other can go on with it
    """
    return await cp.work.finish(_resume(cp, team_id, sandbox_id, timeout_sec, memory), f"resume {sandbox_id}")


async def go_on(cp: ControlPlane, row: SandboxRow, ttl_sec: float | None) -> SandboxRow:
    """Resumes one that was paused for a move, with what was left of its time to live. Raises as `resume`.

    :param ttl_sec: None: all of it"""
    work = _resume(cp, row.team_id, row.id, None, True, ttl_sec=ttl_sec)
    return await cp.work.finish(work, f"resume {row.id}")


async def restore(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None) -> SandboxRow:
    """Has a lost sandbox go on from the last pause that is in the object store. What it did since is gone, also when
    its host comes back: that one is told to drop what it has.

    :param timeout_sec: as `resume`
    :raises Conflict: it is not lost, or nothing of it was stored
    :raises Unavailable: no host can go on with it now
    """
    work = _resume(cp, team_id, sandbox_id, timeout_sec, True, before=State.LOST)
    return await cp.work.finish(work, f"restore {sandbox_id}")


async def _pause(
    cp: ControlPlane, team_id: str, sandbox_id: str, memory: bool, reason: Reason | None
) -> SandboxRow:
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, State.RUNNING, "pause")
    host = await sandboxes.host_of(cp, row)
    with cp.work.leased([row.id]):
        pausing = await db_sandboxes.begin(cp.db, row.id, row.generation, [State.RUNNING], State.PAUSING)
        if pausing is None:
            raise sandboxes.changed(row)
        cp.routes.forget(row.id)
        try:
            message = agent.Pause(generation=row.generation, memory=memory)
            report = await cp.hosts.pause(host, row.id, message)
        except WrennError as error:
            log.warning("pause failed", action="pause_failed", sandbox_id=row.id, error=error.message)
            raise await outcomes.failed(cp, pausing, host, error, "pause") from error
        paused = await db_sandboxes.settle(
            cp.db,
            row.id,
            row.generation,
            [State.PAUSING, State.LOST],
            State.PAUSED,
            reason=reason,
            saved_memory=report.saved_memory,
            saved_generation=report.saved_generation,
        )
        if paused is None:
            raise sandboxes.changed(row)
        return paused


async def _resume(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    timeout_sec: int | None,
    memory: bool,
    *,
    before: State = State.PAUSED,
    ttl_sec: float | None = None,
) -> SandboxRow:
    verb = "resume" if before is State.PAUSED else "restore"
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, before, verb)
    if before is State.LOST and row.stored_generation is None:
        raise Conflict(f"cannot restore sandbox {row.id}: nothing of it is in the object store")
    with cp.work.leased([row.id]):
        resuming, host = await _begin(cp, row, timeout_sec, before, verb)
        message = agent.Resume(
            generation=resuming.generation,
            access_token=resuming.access_token,
            memory=memory,
            ttl_sec=(ttl_sec or resuming.timeout_sec) if resuming.timeout_sec else None,
            on_timeout=resuming.on_timeout,
            pause_memory=resuming.pause_memory,
            network=resuming.network,
            stored=resuming.stored_generation if resuming.is_stored else None,
        )
        try:
            report = await cp.hosts.resume(host, row.id, message)
        except WrennError as error:
            log.warning("resume failed", action="resume_failed", sandbox_id=row.id, error=error.message)
            if isinstance(error, Unreachable) and resuming.is_stored:
                await _take_back(cp, resuming)
                raise
            raise await outcomes.failed(cp, resuming, host, error, "resume") from error
        running = await outcomes.started(cp, resuming, host, report)
        if row.host_id not in (None, host.id):
            cp.work.later(forget(cp, row), f"forget {row.id}")
        return running


async def _begin(
    cp: ControlPlane, row: SandboxRow, timeout_sec: int | None, before: State, verb: str
) -> tuple[SandboxRow, Host]:
    """:raises Unavailable: nobody has room for it; :raises Conflict: it is not as it was"""
    found = elsewhere.for_resume(cp, row) if before is State.PAUSED else elsewhere.hosts(cp, row)
    asked = False
    async for host in found:
        asked = True
        resuming = await db_sandboxes.begin_resume(
            cp.db,
            row.id,
            row.generation,
            timeout_sec,
            cp.config.room,
            host_id=None if host.id == row.host_id else host.id,
            before=before,
        )
        if resuming is not None:
            return resuming, host
        now = await db_sandboxes.get(cp.db, row.id) or row
        sandboxes.demand(now, before, verb)
        if now.generation != row.generation:
            raise sandboxes.changed(row)
    if before is State.PAUSED and not asked:
        await sandboxes.host_of(cp, row)
    raise Unavailable(f"no host has room for sandbox {row.id} now", code="no_hosts_available")


async def _take_back(cp: ControlPlane, resuming: SandboxRow) -> None:
    """Its host was not reached, so nothing of it runs there: it rests in the object store, for another one."""
    await db_sandboxes.settle(
        cp.db,
        resuming.id,
        resuming.generation,
        [State.RESUMING],
        State.PAUSED,
        saved_memory=resuming.saved_memory,
    )


async def forget(cp: ControlPlane, row: SandboxRow) -> None:
    """The host of `row`, which is not the sandbox's any more, drops what it has of it. If this fails, its next heartbeat
    shows what is left, and it is tried again."""
    host = await db_hosts.get(cp.db, row.host_id) if row.host_id else None
    if host is not None and host.status == "online":
        await cp.hosts.kill(cp.host(host.id, host.address), row.id, row.generation, elsewhere=True)
