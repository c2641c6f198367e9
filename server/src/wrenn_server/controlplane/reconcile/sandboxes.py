"""Sandboxes that somebody left in the middle of something, or whose host said something odd: ask the host, and write
down what is. Claimed rows are worked on outside any transaction; their leases are kept up meanwhile."""

import asyncio
from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.reconcile import decide
from wrenn_server.controlplane.services import outcomes
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import leases, transitions
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import WrennError
from wrenn_server.model.sandbox import Reason, State

INTERVAL = 2.0
RETRY_SEC = 5.0
BATCH = 64
AT_ONCE = 16

log = structlog.get_logger()


async def converge(cp: ControlPlane) -> None:
    while claimed := await leases.claim(cp.db, BATCH):
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(row: SandboxRow, limit: asyncio.Semaphore = limit) -> None:
            async with limit:
                await _one(cp, row)

        async with asyncio.TaskGroup() as group:
            for row in claimed:
                if not cp.work.is_leased(row.id):  # our own work, whose lease could not be extended in time
                    group.create_task(one(row), name=f"reconcile {row.id}")
        if len(claimed) < BATCH:
            return


async def _one(cp: ControlPlane, row: SandboxRow) -> None:
    with cp.work.leased([row.id]):
        crash_point("reconcile.claimed")
        try:
            delay = await _settle(cp, row)
        except WrennError as error:
            log.info("asked in vain", action="reconcile_deferred", sandbox_id=row.id, error=error.message)
            delay = RETRY_SEC
        # When the decision was written, the row's lease is gone and this does nothing.
        await leases.release(cp.db, row.id, row.generation, delay)


async def _settle(cp: ControlPlane, row: SandboxRow) -> float | None:
    """Seconds until it must be looked at again; None: not at all."""
    host = await db_hosts.get(cp.db, row.host_id) if row.host_id else None
    if host is None:
        await _without_host(cp, row)
        return None
    if host.status != "online":
        # Killing waits for the host; all else becomes `lost` and is settled by its heartbeat.
        return RETRY_SEC if row.state.is_transitional else None
    where = cp.host(host.id, host.address)
    report = await cp.hosts.get(where, row.id)
    crash_point("reconcile.host_answered")
    decision = decide.from_report(row, report) if report else decide.absent(row, datetime.now(UTC))
    log.info(
        "looked into",
        action="reconcile",
        sandbox_id=row.id,
        state=row.state,
        decision=type(decision).__name__,
    )
    await outcomes.apply(cp, row, where, decision)
    crash_point("reconcile.applied")
    return RETRY_SEC if isinstance(decision, decide.Wait) or _open(row, decision) else None


def _open(row: SandboxRow, decision: decide.Decision) -> bool:
    return isinstance(decision, decide.Nothing) and row.state.is_transitional


async def _without_host(cp: ControlPlane, row: SandboxRow) -> None:
    if row.is_stored and row.state in (State.PAUSED, State.RESUMING, State.LOST):
        after = State.PAUSED
        await transitions.settle(
            cp.db, row.id, row.generation, [row.state], after, saved_memory=row.saved_memory
        )
        return
    after = State.KILLED if row.state is State.KILLING else State.FAILED
    reason = row.reason or Reason.HOST_LOST
    await transitions.settle(cp.db, row.id, row.generation, [row.state], after, reason=reason)
