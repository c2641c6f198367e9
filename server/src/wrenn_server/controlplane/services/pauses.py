"""Pausing and resuming: rules and order of steps, as in `sandboxes.py`. A failed pause leaves the sandbox running, a
failed resume leaves it paused; what is true is what the host says."""

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import outcomes, sandboxes
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import Unavailable, WrennError
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
    :raises Conflict: it is not paused; :raises Unavailable: its host is away, or has no room now
    """
    return await cp.work.finish(_resume(cp, team_id, sandbox_id, timeout_sec, memory), f"resume {sandbox_id}")


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
        )
        if paused is None:
            raise sandboxes.changed(row)
        return paused


async def _resume(
    cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None, memory: bool
) -> SandboxRow:
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, State.PAUSED, "resume")
    host = await sandboxes.host_of(cp, row)
    with cp.work.leased([row.id]):
        resuming = await db_sandboxes.begin_resume(cp.db, row.id, row.generation, timeout_sec, cp.config.room)
        if resuming is None:
            now = await sandboxes.get(cp, team_id, sandbox_id)
            sandboxes.demand(now, State.PAUSED, "resume")
            if now.generation != row.generation:
                raise sandboxes.changed(row)
            raise Unavailable(
                f"the host of sandbox {row.id} has no room for it now", code="no_hosts_available"
            )
        message = agent.Resume(
            generation=resuming.generation,
            access_token=resuming.access_token,
            memory=memory,
            ttl_sec=resuming.timeout_sec or None,
            on_timeout=resuming.on_timeout,
            pause_memory=resuming.pause_memory,
            network=resuming.network,
        )
        try:
            report = await cp.hosts.resume(host, row.id, message)
        except WrennError as error:
            log.warning("resume failed", action="resume_failed", sandbox_id=row.id, error=error.message)
            raise await outcomes.failed(cp, resuming, host, error, "resume") from error
        return await outcomes.started(cp, resuming, host, report)
