"""What came of a call to a host, made true in the row: what the host says is, and nothing else.

The rules are in `reconcile/decide.py`; reconciler, heartbeats and services apply them alike.
"""

from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host, Unreachable
from wrenn_server.controlplane.reconcile import decide
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import transitions
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import Conflict, Internal, WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent

log = structlog.get_logger()


async def apply(
    cp: ControlPlane, row: SandboxRow, host: Host, decision: decide.Decision
) -> SandboxRow | None:
    """Makes a decision about a host's report true. The sandbox as it is then; None: nothing changed."""
    match decision:
        case decide.Settle():
            settled = await transitions.settle(
                cp.db,
                row.id,
                row.generation,
                [row.state],
                decision.state,
                reason=decision.reason,
                message=decision.message,
                console=decision.console,
                envd_version=decision.envd_version,
                expires_at=decision.expires_at,
                saved_memory=decision.saved_memory,
                saved_generation=decision.saved_generation,
                started=decision.started,
            )
            if row.state is State.RUNNING:  # of one that runs only now, connections may be open already
                cp.routes.forget(row.id)
            if settled is not None and settled.state.is_final:
                await cp.hosts.kill(host, row.id, row.generation)
            return settled
        case decide.Remove(generation):
            await cp.hosts.kill(host, row.id, generation)
            if row.state is not State.KILLING:
                return None
            reason = row.reason or Reason.USER
            return await transitions.settle(
                cp.db, row.id, row.generation, [State.KILLING], State.KILLED, reason=reason
            )
        case decide.Nothing() | decide.Wait():
            return None


async def started(cp: ControlPlane, row: SandboxRow, host: Host, report: agent.SandboxReport) -> SandboxRow:
    """Writes down that a start or resume succeeded."""
    running = await transitions.settle(
        cp.db,
        row.id,
        row.generation,
        [row.state, State.LOST, State.RUNNING],  # a heartbeat or a reconciler may have been faster
        State.RUNNING,
        envd_version=report.envd_version,
        expires_at=decide.expires_at(report),
        started=True,
    )
    if running is not None:
        return running
    now = await db_sandboxes.get(cp.db, row.id)
    if now is not None and not now.state.is_final and now.state is not State.KILLING:
        return now  # its host has paused it already
    # Killed meanwhile. The kill may have reached the host before the start did.
    _clear_up(cp, row, host)
    raise Conflict(f"sandbox {row.id} was killed while it started")


async def start_failed(cp: ControlPlane, row: SandboxRow, host: Host, error: WrennError) -> None:
    log.warning(
        "start failed", action="start_failed", sandbox_id=row.id, host_id=host.id, error=error.message
    )
    report = await _ask_quietly(cp, host, row.id) if not isinstance(error, Unreachable) else None
    await transitions.settle(
        cp.db,
        row.id,
        row.generation,
        [row.state, State.LOST],
        State.FAILED,
        reason=(report.reason if report else None) or Reason.START_FAILED,
        message=(report.message if report else None) or error.message,
        console=report.console if report else None,
    )
    if not isinstance(error, Unreachable):
        _clear_up(cp, row, host)


def _clear_up(cp: ControlPlane, row: SandboxRow, host: Host) -> None:
    """The host drops what it has. If this fails, its next heartbeat shows what is left, and it is tried again."""
    cp.work.later(cp.hosts.kill(host, row.id, row.generation), f"clear up {row.id}")


async def failed(cp: ControlPlane, row: SandboxRow, host: Host, error: WrennError, verb: str) -> WrennError:
    """After a host did not do what it was asked: what it says now is what is. Returns the error for our caller.

    When the host does not answer either, the row stays as it is, and the reconciler asks again.
    """
    try:
        report = await cp.hosts.get(host, row.id)
        decision = decide.from_report(row, report) if report else decide.absent(row, datetime.now(UTC))
        settled = await apply(cp, row, host, decision)
    except WrennError as later:
        log.warning(
            "state is asked for later", action="settle_deferred", sandbox_id=row.id, error=later.message
        )
        settled = None
    if settled is not None and (settled.state.is_final or error.status in (404, 409)):
        return Conflict(f"cannot {verb} sandbox {row.id}: it is {settled.state}")
    if error.status in (404, 409) and not await is_as(cp, row):
        return changed(row)  # it ended, or went on elsewhere, between the look at its row and the command
    return as_answer(error, verb)


def changed(row: SandboxRow) -> Conflict:
    return Conflict(f"sandbox {row.id} was changed by somebody else at the same moment", retryable=True)


async def is_as(cp: ControlPlane, row: SandboxRow) -> bool:
    """Whether its state and generation are still those of `row`."""
    now = await db_sandboxes.get(cp.db, row.id)
    return now is not None and (now.state, now.generation) == (row.state, row.generation)


def as_answer(error: WrennError, verb: str) -> WrennError:
    """A host's refusal as an answer to our caller, who knows nothing of generations and hosts' states."""
    if error.status in (400, 404, 409) or error.status == 500:
        return Internal(f"the host could not {verb} the sandbox: {error.message}", code="agent_error")
    return error


async def _ask_quietly(cp: ControlPlane, host: Host, sandbox_id: str) -> agent.SandboxReport | None:
    try:
        return await cp.hosts.get(host, sandbox_id)
    except WrennError:
        return None
