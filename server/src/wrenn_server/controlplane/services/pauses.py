"""Pausing and resuming: rules and order of steps, as in `sandboxes.py`. A failed pause leaves the sandbox running, a
failed resume leaves it paused; what is true is what the host says."""

from collections.abc import Collection
from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host, Uncertain
from wrenn_server.controlplane.services import elsewhere, outcomes, sandboxes
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import transitions
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.linux.crash import crash_point
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
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    timeout_sec: int | None,
    *,
    memory: bool = True,
    ticket: int | None = None,
) -> SandboxRow:
    """
    :param timeout_sec: it ends so long after; 0: never; None: as before
    :param memory: False: boot from the disk even if memory was saved
    :param ticket: the place in the queue for the team's pool
    :raises Conflict: it is not paused
    :raises PoolExhausted: the team's pool has no room
    :raises Unavailable: its host is away or has no room now, and no other can go on with it
    """
    work = _resume(cp, team_id, sandbox_id, timeout_sec, memory, ticket=ticket)
    return await cp.work.finish(work, f"resume {sandbox_id}")


async def go_on(
    cp: ControlPlane, row: SandboxRow, ttl_sec: float | None, *, snapshot_id: str | None = None
) -> SandboxRow:
    """Resumes one that was paused for a move or a rollback, with what was left of its time to live. Raises as `resume`.

    :param ttl_sec: None: all of it
    :param snapshot_id: taken of it earlier, to go back to"""
    work = _resume(cp, row.team_id, row.id, None, True, ttl_sec=ttl_sec, snapshot_id=snapshot_id)
    return await cp.work.finish(work, f"resume {row.id}")


async def restore(
    cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None, *, ticket: int | None = None
) -> SandboxRow:
    """Has a lost sandbox go on from the last pause that is in the object store. What it did since is gone, also when
    its host comes back: that one is told to drop what it has.

    :param timeout_sec: as `resume`, and so is `ticket`
    :raises Conflict: it is not lost, or nothing of it was stored
    :raises PoolExhausted: the team's pool has no room
    :raises Unavailable: no host can go on with it now
    """
    work = _resume(cp, team_id, sandbox_id, timeout_sec, True, before=State.LOST, ticket=ticket)
    return await cp.work.finish(work, f"restore {sandbox_id}")


def left_of(row: SandboxRow) -> float | None:
    """Seconds of a running one's time to live, for `go_on`."""
    if row.expires_at is None:
        return None
    return max(1.0, (row.expires_at - datetime.now(UTC)).total_seconds())


async def _pause(
    cp: ControlPlane, team_id: str, sandbox_id: str, memory: bool, reason: Reason | None
) -> SandboxRow:
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, State.RUNNING, "pause")
    host = await sandboxes.host_of(cp, row)
    with cp.work.leased([row.id]):
        # Whoever has to finish this knows from the reason that the sandbox is to run on afterwards.
        pausing = await transitions.begin(
            cp.db, row.id, row.generation, [State.RUNNING], State.PAUSING, reason=reason
        )
        if pausing is None:
            raise outcomes.changed(row)
        crash_point("pause.row_written")
        cp.routes.forget(row.id)
        try:
            message = agent.Pause(generation=row.generation, memory=memory)
            report = await cp.hosts.pause(host, row.id, message)
        except WrennError as error:
            log.warning("pause failed", action="pause_failed", sandbox_id=row.id, error=error.message)
            raise await outcomes.failed(cp, pausing, host, error, "pause") from error
        crash_point("pause.host_answered")
        paused = await transitions.settle(
            cp.db,
            row.id,
            row.generation,
            [State.PAUSING, State.LOST],
            State.PAUSED,
            reason=reason,
            saved_memory=report.saved_memory,
            saved_generation=report.saved_generation,
        )
        crash_point("pause.row_settled")
        if paused is None:
            raise outcomes.changed(row)
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
    snapshot_id: str | None = None,
    ticket: int | None = None,
) -> SandboxRow:
    verb = "resume" if before is State.PAUSED else "restore"
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, before, verb)
    if before is State.LOST and row.stored_generation is None:
        raise Conflict(f"cannot restore sandbox {row.id}: nothing of it is in the object store")
    own = row.host_id
    tried: set[str] = set()
    refused: WrennError | None = None
    with cp.work.leased([row.id]):
        while True:
            resuming, host = await _begin(cp, row, timeout_sec, before, tried, refused, ticket)
            crash_point("resume.row_written")
            message = agent.Resume(
                generation=resuming.generation,
                access_token=resuming.access_token,
                memory=memory,
                ttl_sec=(ttl_sec or resuming.timeout_sec) if resuming.timeout_sec else None,
                on_timeout=resuming.on_timeout,
                pause_memory=resuming.pause_memory,
                keep_alive=resuming.keep_alive,
                network=resuming.network,
                stored=resuming.stored_generation if resuming.is_stored else None,
                snapshot=snapshot_id,
            )
            try:
                report = await cp.hosts.resume(host, row.id, message)
            except WrennError as error:
                log.warning("resume failed", action="resume_failed", sandbox_id=row.id, error=error.message)
                if host.id == own or not resuming.is_stored or not _is_refusal(error):
                    raise await outcomes.failed(cp, resuming, host, error, "resume") from error
                row = await transitions.take_back(cp.db, resuming, own) or row
                before, refused = State.PAUSED, error
                tried.add(host.id)
                continue
            crash_point("resume.host_answered")
            running = await outcomes.started(cp, resuming, host, report)
            crash_point("resume.row_settled")
            if own not in (None, host.id):
                cp.work.later(forget(cp, row.id, own, resuming.generation - 1), f"forget {row.id}")
            return running


def _is_refusal(error: WrennError) -> bool:
    """Nothing runs there, and another host may do it."""
    return isinstance(error, Unavailable) and not isinstance(error, Uncertain)


async def _begin(
    cp: ControlPlane,
    row: SandboxRow,
    timeout_sec: int | None,
    before: State,
    tried: Collection[str],
    refused: WrennError | None,
    ticket: int | None,
) -> tuple[SandboxRow, Host]:
    """
    :param tried: hosts that have refused it, the last one with `refused`
    :raises Unavailable: nobody has room for it; :raises Conflict: it is not as it was
    """
    found = elsewhere.for_resume(cp, row) if before is State.PAUSED else elsewhere.hosts(cp, row)
    asked = False
    async for host in found:
        asked = True
        if host.id in tried:
            continue
        resuming = await transitions.begin_resume(
            cp.db,
            row.id,
            row.generation,
            timeout_sec,
            cp.config.room,
            host_id=None if host.id == row.host_id else host.id,
            before=before,
            ticket=ticket,
        )
        if resuming is not None:
            return resuming, host
        now = await db_sandboxes.get(cp.db, row.id) or row
        sandboxes.demand(now, before, "resume" if before is State.PAUSED else "restore")
        if now.generation != row.generation:
            raise outcomes.changed(row)
    if refused is not None:
        raise refused
    if before is State.PAUSED and not asked:
        await sandboxes.host_of(cp, row)
    raise Unavailable(f"no host has room for sandbox {row.id} now", code="no_hosts_available")


async def forget(cp: ControlPlane, sandbox_id: str, host_id: str | None, generation: int) -> None:
    """A host that had a sandbox drops what it has of it. If this fails, its next heartbeat shows what is left, and it is
    tried again."""
    host = await db_hosts.get(cp.db, host_id) if host_id else None
    if host is not None and host.status == "online":
        await cp.hosts.kill(cp.host(host.id, host.address), sandbox_id, generation, elsewhere=True)
