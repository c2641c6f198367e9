"""The life of sandboxes: rules and order of steps. Intent is written first, then the host acts, then the result.

Every step is a compare-and-set, so of two that want to change a sandbox at once only one does. What is left half
done by a crash is the reconciler's (`reconcile/sandboxes.py`), which decides with the same rules.
"""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host, Uncertain, Unreachable
from wrenn_server.controlplane.reconcile import decide
from wrenn_server.controlplane.scheduler import place
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import placement
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db.pool import DatabaseUnavailable
from wrenn_server.db.sandboxes import New, SandboxRow
from wrenn_server.model.errors import Conflict, Internal, NotFound, Unavailable, WrennError
from wrenn_server.model.ids import new_sandbox_id, parse_sandbox_id
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent

_CANDIDATES = 8
_KILLABLE = frozenset(State) - {State.KILLED}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A create's request, valid in itself."""

    team_id: str
    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    timeout_sec: int
    on_timeout: str
    metadata: Mapping[str, str]
    envs: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Forked:
    """One of a fork's results: a sandbox, or why there is none."""

    sandbox: SandboxRow | None
    error: WrennError | None


async def create(cp: ControlPlane, wanted: Wanted) -> SandboxRow:
    """A running sandbox.

    :raises NotFound: `template_not_found`
    :raises Unavailable: `no_hosts_available`
    :raises WrennError: the host could not start it; the sandbox is then `failed` with the reason
    """
    return await cp.work.finish(_create(cp, wanted), "create")


async def get(cp: ControlPlane, team_id: str, sandbox_id: str) -> SandboxRow:
    """Also sandboxes that have ended. :raises NotFound: another team's are not there either"""
    parsed = parse_sandbox_id(sandbox_id)
    row = await db_sandboxes.get(cp.db, parsed) if parsed else None
    if row is None or row.team_id != team_id:
        raise _not_found(sandbox_id)
    return row


async def page(
    cp: ControlPlane,
    team_id: str,
    *,
    states: Collection[State] | None,
    metadata: Mapping[str, str],
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[SandboxRow]:
    return await db_sandboxes.page(
        cp.db, team_id, states=states, metadata=metadata, before=before, limit=limit
    )


async def kill(cp: ControlPlane, team_id: str, sandbox_id: str) -> None:
    """Legal in every state. Answers when the host has ended it; when the host is away, that is done later.

    :raises NotFound: it does not exist, or was killed before
    """
    await cp.work.finish(_kill(cp, team_id, sandbox_id), f"kill {sandbox_id}")


async def pause(cp: ControlPlane, team_id: str, sandbox_id: str) -> SandboxRow:
    """:raises Conflict: it is not running"""
    return await cp.work.finish(_pause(cp, team_id, sandbox_id), f"pause {sandbox_id}")


async def resume(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None) -> SandboxRow:
    """:raises Conflict: it is not paused; :raises Unavailable: its host is away, or has no room now"""
    return await cp.work.finish(_resume(cp, team_id, sandbox_id, timeout_sec), f"resume {sandbox_id}")


async def fork(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    *,
    count: int,
    timeout_sec: int | None,
    metadata: Mapping[str, str] | None,
) -> list[Forked]:
    """Copies of a running sandbox, memory and disk, on its host; it keeps running.

    :raises Conflict: it is not running; :raises Unavailable: its host has no room for all of them
    """
    return await cp.work.finish(
        _fork(cp, team_id, sandbox_id, count, timeout_sec, metadata), f"fork {sandbox_id}"
    )


async def set_timeout(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int) -> SandboxRow:
    """Ends `timeout_sec` from now; 0: never. Of a paused sandbox: what its next resume gets.

    :raises Conflict: it neither runs nor is paused
    """
    return await cp.work.finish(_set_timeout(cp, team_id, sandbox_id, timeout_sec), f"timeout {sandbox_id}")


async def host_of(cp: ControlPlane, row: SandboxRow) -> Host:
    """:raises Unavailable: the host is away"""
    host = await db_hosts.get(cp.db, row.host_id) if row.host_id else None
    if host is None or host.status != "online":
        raise Unavailable(f"the host of sandbox {row.id} is not reachable")
    return cp.host(host.id, host.address)


async def apply(
    cp: ControlPlane, row: SandboxRow, host: Host, decision: decide.Decision
) -> SandboxRow | None:
    """Makes a decision about a host's report true. The sandbox as it is then; None: nothing changed."""
    match decision:
        case decide.Settle():
            settled = await db_sandboxes.settle(
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
                started=decision.started,
            )
            cp.routes.forget(row.id)
            if settled is not None and settled.state.is_final:
                await cp.hosts.kill(host, row.id, row.generation)
            return settled
        case decide.Remove(generation):
            await cp.hosts.kill(host, row.id, generation)
            if row.state is not State.KILLING:
                return None
            reason = row.reason or Reason.USER
            return await db_sandboxes.settle(
                cp.db, row.id, row.generation, [State.KILLING], State.KILLED, reason=reason
            )
        case decide.Nothing() | decide.Wait():
            return None


# Create


async def _create(cp: ControlPlane, wanted: Wanted) -> SandboxRow:
    room = cp.config.room
    found = await placement.choices(
        cp.db,
        team_id=wanted.team_id,
        template=wanted.template,
        vcpus=wanted.vcpus,
        memory_mb=wanted.memory_mb,
        disk_mb=wanted.disk_mb,
        room=room,
        limit=_CANDIDATES,
    )
    if found is None:
        raise NotFound(f"template {wanted.template!r} does not exist", code="template_not_found")
    tried: set[str] = set()
    refused: WrennError | None = None
    while host := place.choose(
        found.candidates,
        vcpus=wanted.vcpus,
        memory_mb=wanted.memory_mb,
        disk_mb=wanted.disk_mb,
        room=room,
        chance=secrets.randbits(32),
        without=tried,
    ):
        tried.add(host.id)
        new = _new(wanted, found.template_id)
        with cp.work.leased([new.id]):
            row = await db_sandboxes.insert(cp.db, new, host.id, room)
            if row is None:
                continue  # others were faster
            try:
                return await _start(cp, row, cp.host(host.id, host.address), wanted.envs)
            except Unavailable as error:
                # Nothing runs there: another host may still take it.
                refused = error
                if isinstance(error, Uncertain | DatabaseUnavailable):
                    raise
    raise refused or Unavailable(
        "no host has room for this sandbox now",
        code="no_hosts_available",
        hint="ask for less memory or disk, end sandboxes that are not needed, or add a host",
    )


def _new(wanted: Wanted, template_id: str) -> New:
    return New(
        id=new_sandbox_id(),
        team_id=wanted.team_id,
        template_id=template_id,
        template=wanted.template,
        vcpus=wanted.vcpus,
        memory_mb=wanted.memory_mb,
        disk_mb=wanted.disk_mb,
        timeout_sec=wanted.timeout_sec,
        on_timeout=wanted.on_timeout,
        metadata=wanted.metadata,
        access_token=secrets.token_hex(24),
    )


async def _start(cp: ControlPlane, row: SandboxRow, host: Host, envs: Mapping[str, str]) -> SandboxRow:
    start = agent.Start(
        generation=row.generation,
        template=row.template,
        template_id=row.template_id,
        team_id=row.team_id,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        access_token=row.access_token,
        envs=dict(envs),
        ttl_sec=row.timeout_sec or None,
        on_timeout=row.on_timeout,
    )
    try:
        report = await cp.hosts.start(host, row.id, start)
    except WrennError as error:
        await _start_failed(cp, row, host, error)
        raise _as_answer(error, "start") from error
    return await _started(cp, row, host, report)


async def _started(cp: ControlPlane, row: SandboxRow, host: Host, report: agent.SandboxReport) -> SandboxRow:
    """Writes down that a start or resume succeeded."""
    running = await db_sandboxes.settle(
        cp.db,
        row.id,
        row.generation,
        [row.state, State.LOST],
        State.RUNNING,
        envd_version=report.envd_version,
        expires_at=decide.expires_at(report),
        started=True,
    )
    if running is not None:
        return running
    # Killed meanwhile. The kill may have reached the host before the start did.
    _clear_up(cp, row, host)
    raise Conflict(f"sandbox {row.id} was killed while it started")


async def _start_failed(cp: ControlPlane, row: SandboxRow, host: Host, error: WrennError) -> None:
    log.warning(
        "start failed", action="start_failed", sandbox_id=row.id, host_id=host.id, error=error.message
    )
    report = await _ask_quietly(cp, host, row.id) if not isinstance(error, Unreachable) else None
    await db_sandboxes.settle(
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


# Kill


async def _kill(cp: ControlPlane, team_id: str, sandbox_id: str) -> None:
    while True:
        row = await get(cp, team_id, sandbox_id)
        if row.state is State.KILLED:
            raise _not_found(sandbox_id)
        with cp.work.leased([row.id]):
            killing = await db_sandboxes.begin(
                cp.db, row.id, row.generation, _KILLABLE, State.KILLING, reason=Reason.USER
            )
            if killing is None:
                continue  # it changed under us: look again
            cp.routes.forget(row.id)
            return await _end(cp, killing)


async def _end(cp: ControlPlane, row: SandboxRow) -> None:
    try:
        if row.host_id is not None:
            await cp.hosts.kill(await host_of(cp, row), row.id, row.generation)
    except Unavailable as error:
        log.warning("kill is left for later", action="kill_deferred", sandbox_id=row.id, error=error.message)
        return
    await db_sandboxes.settle(
        cp.db, row.id, row.generation, [State.KILLING], State.KILLED, reason=row.reason or Reason.USER
    )


# Pause and resume


async def _pause(cp: ControlPlane, team_id: str, sandbox_id: str) -> SandboxRow:
    row = await get(cp, team_id, sandbox_id)
    _demand(row, State.RUNNING, "pause")
    host = await host_of(cp, row)
    with cp.work.leased([row.id]):
        pausing = await db_sandboxes.begin(cp.db, row.id, row.generation, [State.RUNNING], State.PAUSING)
        if pausing is None:
            raise _changed(row)
        cp.routes.forget(row.id)
        try:
            await cp.hosts.pause(host, row.id, row.generation)
        except WrennError as error:
            raise await _settle_failure(cp, pausing, host, error, "pause") from error
        paused = await db_sandboxes.settle(
            cp.db, row.id, row.generation, [State.PAUSING, State.LOST], State.PAUSED
        )
        if paused is None:
            raise _changed(row)
        return paused


async def _resume(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int | None) -> SandboxRow:
    row = await get(cp, team_id, sandbox_id)
    _demand(row, State.PAUSED, "resume")
    host = await host_of(cp, row)
    with cp.work.leased([row.id]):
        resuming = await db_sandboxes.begin_resume(cp.db, row.id, row.generation, timeout_sec, cp.config.room)
        if resuming is None:
            now = await get(cp, team_id, sandbox_id)
            _demand(now, State.PAUSED, "resume")
            raise Unavailable(
                f"the host of sandbox {row.id} has no room for it now", code="no_hosts_available"
            )
        message = agent.Resume(
            generation=resuming.generation,
            access_token=row.access_token,
            ttl_sec=resuming.timeout_sec or None,
            on_timeout=row.on_timeout,
        )
        try:
            report = await cp.hosts.resume(host, row.id, message)
        except WrennError as error:
            raise await _settle_failure(cp, resuming, host, error, "resume") from error
        return await _started(cp, resuming, host, report)


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
        await apply(cp, row, host, decision)
    except WrennError as later:
        log.warning(
            "state is asked for later", action="settle_deferred", sandbox_id=row.id, error=later.message
        )
    return _as_answer(error, verb)


# Fork and timeout


async def _fork(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    count: int,
    timeout_sec: int | None,
    metadata: Mapping[str, str] | None,
) -> list[Forked]:
    source = await get(cp, team_id, sandbox_id)
    _demand(source, State.RUNNING, "fork")
    host = await host_of(cp, source)
    wanted = Wanted(
        team_id=team_id,
        template=source.template,
        vcpus=source.vcpus,
        memory_mb=source.memory_mb,
        disk_mb=source.disk_mb,
        timeout_sec=source.timeout_sec if timeout_sec is None else timeout_sec,
        on_timeout=source.on_timeout,
        metadata=source.metadata if metadata is None else metadata,
        envs={},
    )
    new = [_new(wanted, source.template_id) for _ in range(count)]
    with cp.work.leased([n.id for n in new]):
        inserted = await db_sandboxes.insert_many(cp.db, new, host.id, cp.config.room)
        if not inserted:
            raise Unavailable(
                f"the host of sandbox {source.id} has no room for {count} more like it",
                code="no_hosts_available",
            )
        targets = [
            agent.ForkTarget(
                id=row.id,
                generation=row.generation,
                access_token=row.access_token,
                ttl_sec=row.timeout_sec or None,
                on_timeout=row.on_timeout,
            )
            for row in inserted
        ]
        message = agent.Fork(generation=source.generation, targets=targets)
        try:
            report = await cp.hosts.fork(host, source.id, message)
        except WrennError as error:
            for row in inserted:
                await _start_failed(cp, row, host, error)
            raise _as_answer(error, "fork") from error
        results = {result.id: result for result in report.results}
        return [await _forked(cp, row, host, results.get(row.id)) for row in inserted]


async def _forked(cp: ControlPlane, row: SandboxRow, host: Host, result: agent.ForkResult | None) -> Forked:
    try:
        if result is not None and result.report is not None:
            return Forked(await _started(cp, row, host, result.report), None)
        error: WrennError = Internal("the host did not fork this one", code="agent_error")
        if result is not None and result.error_message:
            error = Internal(result.error_message, code=result.error_code)
        await _start_failed(cp, row, host, error)
    except WrennError as failed:
        error = failed
    return Forked(None, error)


async def _set_timeout(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int) -> SandboxRow:
    row = await get(cp, team_id, sandbox_id)
    expires: datetime | None = None
    if row.state is State.RUNNING:
        message = agent.Timeout(
            generation=row.generation, ttl_sec=timeout_sec or None, on_timeout=row.on_timeout
        )
        try:
            report = await cp.hosts.timeout(await host_of(cp, row), row.id, message)
        except WrennError as error:
            raise _as_answer(error, "change the timeout of") from error
        expires = decide.expires_at(report)
    elif row.state is not State.PAUSED:
        raise Conflict(f"cannot change the timeout of sandbox {row.id}: it is {row.state}")
    changed = await db_sandboxes.set_timeout(cp.db, row.id, row.generation, timeout_sec, expires)
    if changed is None:
        raise _changed(row)
    return changed


# Errors


def _demand(row: SandboxRow, state: State, verb: str) -> None:
    if row.state is not state:
        raise Conflict(f"cannot {verb} sandbox {row.id}: it is {row.state}")


def _not_found(sandbox_id: str) -> NotFound:
    return NotFound(f"sandbox {sandbox_id[:64]} does not exist", code="sandbox_not_found")


def _changed(row: SandboxRow) -> Conflict:
    return Conflict(f"sandbox {row.id} was changed by somebody else at the same moment", retryable=True)


def _as_answer(error: WrennError, verb: str) -> WrennError:
    """A host's refusal as an answer to our caller, who knows nothing of generations and hosts' states."""
    if error.status in (400, 404, 409) or error.status == 500:
        return Internal(f"the host could not {verb} the sandbox: {error.message}", code="agent_error")
    return error


async def _ask_quietly(cp: ControlPlane, host: Host, sandbox_id: str) -> agent.SandboxReport | None:
    try:
        return await cp.hosts.get(host, sandbox_id)
    except WrennError:
        return None
