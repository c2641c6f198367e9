"""Pausing and resuming: rules and order of steps, as in `sandboxes.py`. A failed pause leaves the sandbox running, a
failed resume leaves it paused; what is true is what the host says."""

from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host
from wrenn_server.controlplane.reconcile import decide
from wrenn_server.controlplane.services import sandboxes
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import Unavailable, WrennError
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent

log = structlog.get_logger()


async def pause(cp: ControlPlane, team_id: str, sandbox_id: str) -> SandboxRow:
    """:raises Conflict: it is not running"""
    return await cp.work.finish(_pause(cp, team_id, sandbox_id), f"pause {sandbox_id}")


async def resume(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None) -> SandboxRow:
    """:raises Conflict: it is not paused; :raises Unavailable: its host is away, or has no room now"""
    return await cp.work.finish(_resume(cp, team_id, sandbox_id, timeout_sec), f"resume {sandbox_id}")


async def _pause(cp: ControlPlane, team_id: str, sandbox_id: str) -> SandboxRow:
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, State.RUNNING, "pause")
    host = await sandboxes.host_of(cp, row)
    with cp.work.leased([row.id]):
        pausing = await db_sandboxes.begin(cp.db, row.id, row.generation, [State.RUNNING], State.PAUSING)
        if pausing is None:
            raise sandboxes.changed(row)
        cp.routes.forget(row.id)
        try:
            await cp.hosts.pause(host, row.id, agent.Pause(generation=row.generation))
        except WrennError as error:
            raise await _settle_failure(cp, pausing, host, error, "pause") from error
        paused = await db_sandboxes.settle(
            cp.db, row.id, row.generation, [State.PAUSING, State.LOST], State.PAUSED
        )
        if paused is None:
            raise sandboxes.changed(row)
        return paused


async def _resume(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None) -> SandboxRow:
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, State.PAUSED, "resume")
    host = await sandboxes.host_of(cp, row)
    with cp.work.leased([row.id]):
        resuming = await db_sandboxes.begin_resume(cp.db, row.id, row.generation, timeout_sec, cp.config.room)
        if resuming is None:
            now = await sandboxes.get(cp, team_id, sandbox_id)
            sandboxes.demand(now, State.PAUSED, "resume")
            raise Unavailable(
                f"the host of sandbox {row.id} has no room for it now", code="no_hosts_available"
            )
        message = agent.Resume(
            generation=resuming.generation,
            access_token=row.access_token,
            ttl_sec=resuming.timeout_sec or None,
            on_timeout=row.on_timeout,
            pause_memory=row.pause_memory,
        )
        try:
            report = await cp.hosts.resume(host, row.id, message)
        except WrennError as error:
            raise await _settle_failure(cp, resuming, host, error, "resume") from error
        return await sandboxes.started(cp, resuming, host, report)


async def _settle_failure(
    cp: ControlPlane, row: SandboxRow, host: Host, error: WrennError, verb: str
) -> WrennError:
    """After a host failed to pause or resume: what it says now is what is. Returns the error for the caller.

    When the host does not answer, the row stays as it is and the reconciler asks again.
    """
    log.warning("the host failed", action=f"{verb}_failed", sandbox_id=row.id, error=error.message)
    try:
        report = await cp.hosts.get(host, row.id)
        decision = decide.from_report(row, report) if report else decide.absent(row, datetime.now(UTC))
        await sandboxes.apply(cp, row, host, decision)
    except WrennError as later:
        log.warning(
            "state is asked for later", action="settle_deferred", sandbox_id=row.id, error=later.message
        )
    return sandboxes.as_answer(error, verb)
