"""What follows for a sandbox from what its host says about it. Pure.

`row` is what the control plane believes, a report what the agent knows. A report may be older than the row: it was
on its way while the control plane acted. So only what cannot be stale is believed: the same generation and a change
that the host makes by itself, or that the control plane asked for and never heard about.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from wrenn_server.db.sandboxes import GO_ON, SandboxRow
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire.agent import SandboxReport


@dataclass(frozen=True, slots=True)
class Nothing:
    """The two agree, or the report is older than what we know."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The host is at it; ask again later."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Believe the host."""

    state: State
    reason: Reason | None = None
    message: str | None = None
    console: str | None = None
    envd_version: str | None = None
    expires_at: datetime | None = None
    saved_memory: bool | None = None
    saved_generation: int | None = None
    started: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """It has ended for us: the host shall drop what it still has. `generation`: the newest that either side knows."""

    generation: int


Decision = Nothing | Wait | Settle | Remove


def from_report(row: SandboxRow, report: SandboxReport) -> Decision:
    if row.state.is_final or row.state is State.KILLING:
        return Remove(max(row.generation, report.generation))
    if report.generation > row.generation:
        return Nothing()  # nobody but us gives generations out: our database is older than the host's memory
    if report.generation < row.generation:
        return _from_older(row, report)
    match report.state:
        case State.RUNNING:
            return _from_running(row, report)
        case State.PAUSED:
            return _from_paused(row, report)
        case State.PAUSING if row.state is State.RUNNING:
            return Settle(State.PAUSING)  # by itself: its time is over, and saving takes a while
        case State.KILLING if row.state is State.RUNNING:
            return Settle(
                State.KILLING, report.reason or Reason.TIMEOUT
            )  # likewise, and there is no way back
        case State.FAILED | State.KILLED:
            return _ended(row, report)
        case _:
            return Wait() if row.state.is_transitional else Nothing()


def absent(row: SandboxRow, now: datetime) -> Decision:
    """The agent itself, asked for this sandbox, says that it has none."""
    match row.state:
        case State.KILLING:
            return Settle(State.KILLED, Reason(row.reason) if row.reason else Reason.USER)
        case State.FAILED | State.KILLED:
            return Nothing()
        case State.STARTING:
            return Settle(State.FAILED, Reason.START_FAILED, "the start never reached its host")
        case State.PAUSED if row.is_stored:
            return Nothing()  # whoever wants it fetches it again
        case State.RESUMING | State.LOST if row.is_stored:
            return Settle(State.PAUSED, _move(row), saved_memory=row.saved_memory)
        case _ if is_over(row, now):
            return Settle(State.KILLED, Reason.TIMEOUT)
        case _:
            return Settle(State.FAILED, Reason.HOST_LOST, "its host does not know it any more")


def is_over(row: SandboxRow, now: datetime) -> bool:
    """Its host has killed it by now, or is about to: nobody can give it more time."""
    return row.on_timeout == "kill" and row.expires_at is not None and row.expires_at <= now


def elsewhere(row: SandboxRow, report: SandboxReport) -> Remove | Nothing:
    """What a host has of a sandbox that is on another one: it was moved or fetched from the object store while this one
    was away. It goes when the other one has newer work of it, when it has ended, or when it rests in the store, too."""
    if _is_spare(row, report):
        return Remove(report.generation)
    if report.generation >= row.generation and not row.state.is_final:
        return Nothing()
    if row.state.is_final or row.state in (State.KILLING, State.RUNNING, State.PAUSING):
        return Remove(report.generation)
    if row.state is State.PAUSED and (row.saved_generation or 0) > report.generation:
        return Remove(report.generation)
    return Nothing()  # the other one may have nothing of it yet


def expires_at(report: SandboxReport) -> datetime | None:
    return None if report.expires_at is None else datetime.fromtimestamp(report.expires_at, UTC)


def _is_spare(row: SandboxRow, report: SandboxReport) -> bool:
    """A copy of what rests on another host and in the object store. While somebody works on the row, a move may be under
    way to the host that shows it; after a resume that came to nothing, its own host may have nothing of it."""
    if row.check_after is not None or row.generation != row.saved_generation:
        return False
    return row.state is State.PAUSED is report.state and row.is_stored and report.generation == row.generation


def _move(row: SandboxRow) -> Reason | None:
    """Why it is paused after a resume that came to nothing: one that was being moved still has to run on."""
    return Reason.DRAIN if row.reason == Reason.DRAIN else None


def _errand(row: SandboxRow) -> Reason | None:
    """What one that was being paused was paused for."""
    if row.state is not State.PAUSING or row.reason not in GO_ON:
        return None
    return Reason(row.reason)


def _from_older(row: SandboxRow, report: SandboxReport) -> Decision:
    """Only a resume leaves the host's generation behind ours: it failed, or never arrived."""
    match row.state, report.state:
        case State.RESUMING | State.LOST, State.PAUSED:
            return Settle(
                State.PAUSED,
                _move(row),
                message=report.message,
                saved_memory=report.saved_memory,
                saved_generation=report.saved_generation,
            )
        case State.RESUMING | State.PAUSED | State.LOST, State.FAILED | State.KILLED:
            return _ended(row, report)
        case State.RESUMING, State.RESUMING:
            return Wait()
        case _:
            return Nothing()


def _from_running(row: SandboxRow, report: SandboxReport) -> Decision:
    match row.state:
        case State.STARTING | State.RESUMING:
            return Settle(
                State.RUNNING, envd_version=report.envd_version, expires_at=expires_at(report), started=True
            )
        case State.PAUSING | State.LOST:
            return Settle(State.RUNNING, message=report.message, expires_at=expires_at(report))
        case _:
            return Nothing()


def _from_paused(row: SandboxRow, report: SandboxReport) -> Decision:
    match row.state:
        case State.RUNNING | State.PAUSING | State.RESUMING | State.LOST:
            return Settle(
                State.PAUSED,
                report.reason or _errand(row),
                report.message,
                saved_memory=report.saved_memory,
                saved_generation=report.saved_generation,
            )
        case State.PAUSED if row.saved_generation is None and report.saved_generation is not None:
            # Paused before anybody asked for it.
            reason = Reason(row.reason) if row.reason else None
            return Settle(
                State.PAUSED,
                reason,
                row.message,
                saved_memory=report.saved_memory,
                saved_generation=report.saved_generation,
            )
        case _:
            return Nothing()


def _ended(row: SandboxRow, report: SandboxReport) -> Decision:
    if report.state is State.KILLED and row.state in (State.RUNNING, State.PAUSING, State.LOST):
        return Settle(State.KILLED, report.reason or Reason.TIMEOUT, report.message, report.console)
    reason = report.reason or (Reason.START_FAILED if row.state is State.STARTING else Reason.VMM_CRASHED)
    return Settle(State.FAILED, reason, report.message, report.console)
