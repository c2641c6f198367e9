"""The life of sandboxes: rules and order of steps. Intent is written first, then the host acts, then the result.

Every step is a compare-and-set, so of two that want to change a sandbox at once only one does. What is left half
done by a crash is the reconciler's (`reconcile/sandboxes.py`), which decides with the same rules.
"""

import secrets
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host, Uncertain
from wrenn_server.controlplane.scheduler import place
from wrenn_server.controlplane.services import egress, outcomes, placing, templates
from wrenn_server.controlplane.services.idempotency import Claim, Effect
from wrenn_server.controlplane.services.templates import Resolved
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import listing, placement, transitions
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import snapshots as db_snapshots
from wrenn_server.db.pool import DatabaseUnavailable
from wrenn_server.db.sandboxes import New, SandboxRow
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unavailable,
    WrennError,
)
from wrenn_server.model.ids import new_sandbox_id, parse_sandbox_id, parse_snapshot_id, parse_template_id
from wrenn_server.model.sandbox import Activity, Reason, State
from wrenn_server.wire import agent

_ENDING = frozenset({State.FAILED, State.KILLING, State.KILLED})
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
    pause_memory: bool = True
    auto_resume: bool = False
    activity: Sequence[Activity] = ()
    """What puts off its end."""
    network: agent.Network = field(default_factory=agent.Network)
    private: bool = False
    """Requests to its ports must carry a token of its own."""
    mask_host: str | None = None
    """The Host that its ports are told instead of the real one; `${PORT}` stands for the port."""
    key_id: str | None = None
    """Of the API key that asks."""
    host_tags: Sequence[str] = ()
    """What its host must have, all of them."""
    availability_zone: str | None = None
    """That its host must be in; None: any."""


async def create(
    cp: ControlPlane, wanted: Wanted, claim: Claim | None = None, ticket: int | None = None
) -> SandboxRow:
    """A running sandbox. From a snapshot it gets the shape of that one's source.

    :param claim: of the idempotency key that the request came with
    :param ticket: the place in the queue for the team's pool
    :raises PoolExhausted: the team's pool has no room
    :raises InvalidRequest: lifecycle or network make no sense
    :raises NotFound: `template_not_found`
    :raises Unavailable: `no_hosts_available`
    :raises WrennError: the host could not start it; the sandbox is then `failed` with the reason
    """
    return await cp.work.finish(_create(cp, wanted, claim, ticket), "create")


async def made(cp: ControlPlane, sandbox_id: str) -> SandboxRow | Effect:
    """What became of a create that had its row already, whoever carried it out."""
    row = await db_sandboxes.get(cp.db, sandbox_id)
    if row is None or (row.started_at is None and row.state in _ENDING):
        return Effect.NOTHING
    return Effect.PENDING if row.started_at is None else row


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
    states: Collection[State] | None = None,
    metadata: Mapping[str, str] | None = None,
    template: str | None = None,
    since: datetime | None = None,
    ascending: bool = False,
    after: tuple[datetime, str] | None = None,
    limit: int,
) -> list[SandboxRow]:
    """The team's sandboxes by the time of their creation, newest first unless `ascending`.

    :param states: None: all that have not ended
    :param template: name or id of what they were created from, also of a snapshot; nothing has an unknown one
    :param since: created at that time or later
    :param after: time of creation and id of the last one of the page before
    """
    template_id = snapshot_id = None
    if template is not None:
        snapshot_id, template_id = parse_snapshot_id(template), parse_template_id(template)
        if snapshot_id is None and template_id is None:
            try:
                template_id = (await templates.look_up(cp, team_id, template)).id
            except (NotFound, Forbidden, InvalidRequest):
                return []
    return await listing.page(
        cp.db,
        team_id,
        states=states,
        metadata=metadata or {},
        template_id=template_id,
        snapshot_id=snapshot_id,
        since=since,
        ascending=ascending,
        after=after,
        limit=limit,
    )


async def count(cp: ControlPlane, team_id: str, states: Collection[State]) -> int:
    """:param states: of those that have not ended"""
    return await listing.count(cp.db, team_id, states)


async def kill(cp: ControlPlane, team_id: str, sandbox_id: str) -> None:
    """Legal in every state. Answers when the host has ended it; when the host is away, that is done later.

    :raises NotFound: it does not exist, or was killed before
    """
    await cp.work.finish(_kill(cp, team_id, sandbox_id), f"kill {sandbox_id}")


async def host_of(cp: ControlPlane, row: SandboxRow) -> Host:
    """:raises Unavailable: the host is away"""
    host = await db_hosts.get(cp.db, row.host_id) if row.host_id else None
    if host is None or host.status != "online":
        raise Unavailable(f"the host of sandbox {row.id} is not reachable")
    return cp.host(host.id, host.address)


# Create


async def _create(cp: ControlPlane, wanted: Wanted, claim: Claim | None, ticket: int | None) -> SandboxRow:
    found = await templates.resolve(cp, wanted.team_id, wanted.template)
    wanted = replace(_checked(wanted), template=found.name)
    if (saved := found.snapshot) is not None:
        wanted = replace(wanted, vcpus=saved.vcpus, memory_mb=saved.memory_mb, disk_mb=saved.disk_mb)
    refused: WrennError | None = None
    async for host in _hosts(cp, wanted, found):
        new = new_row(wanted, found.template_id, found.image, saved.id if saved else None, ticket)
        with cp.work.leased([new.id]):
            row = await _insert(cp, new, host.id, claim)
            if row is None:
                continue  # others were faster
            crash_point("create.row_written")
            try:
                return await _start(cp, row, host, wanted.envs)
            except Unavailable as error:
                # Nothing runs there: another host may still take it.
                refused = error
                if isinstance(error, Uncertain | DatabaseUnavailable):
                    raise
    raise refused or await _no_host(cp, wanted, found)


async def _hosts(cp: ControlPlane, wanted: Wanted, found: Resolved) -> AsyncGenerator[Host]:
    """Hosts that it fits on, the best first. A snapshot is started on the host that holds it, and where that cannot be,
    on one that fetches it from the object store."""
    snapshot = found.snapshot
    rounds: list[tuple[str | None, place.Saved | None]] = [
        (snapshot.host_id or "" if snapshot else None, None)
    ]
    if snapshot is not None and snapshot.stored_in and snapshot.stored_machine:
        rounds.append(
            (None, place.Saved(snapshot.stored_in, snapshot.stored_machine, memory=snapshot.memory))
        )
    tried: set[str] = set()
    for host_id, saved in rounds:
        async for host in placing.fitting(
            cp, wanted, image=found.image, tried=tried, host_id=host_id, saved=saved
        ):
            yield host


async def _insert(cp: ControlPlane, new: New, host_id: str, claim: Claim | None) -> SandboxRow | None:
    """None: the host has no room any more. :raises NotFound: the snapshot is being deleted"""
    if new.snapshot_id is None and claim is None:
        return await db_sandboxes.insert(cp.db, new, host_id, cp.config.room)
    async with cp.db.transaction() as tx:
        if new.snapshot_id is not None and not await db_snapshots.hold(tx, new.snapshot_id):
            raise templates.not_found(new.template)
        row = await db_sandboxes.insert(tx, new, host_id, cp.config.room)
        if row is not None and claim is not None:
            await claim.bind(tx, row.id)
        return row


async def _no_host(cp: ControlPlane, wanted: Wanted, found: Resolved) -> Unavailable:
    own = await db_hosts.has_own(cp.db, wanted.team_id)
    if found.snapshot is not None:
        host_id = found.snapshot.host_id
        host = await db_hosts.get(cp.db, host_id) if host_id else None
        if host is None or host.status != "online":
            return Unavailable(
                f"the host that holds snapshot {found.snapshot.id} is not reachable",
                retryable=host is not None,
                hint=None if host else "the host was removed, and the snapshot was lost with it",
            )
        if host.team_id != (wanted.team_id if own else None) or not place.suits(
            host, placing.wish_of(wanted)
        ):
            return Unavailable(
                f"the host that holds snapshot {found.snapshot.id} is not one that this sandbox may be on, and no other "
                "one can fetch it",
                code="no_hosts_available",
                hint="it is not the team's own, or lacks the `host_tags` or the `availability_zone`; an object store "
                "takes snapshots to other hosts",
            )
        return Unavailable(
            f"the host that holds snapshot {found.snapshot.id} has no room for a sandbox of its size now",
            code="no_hosts_available",
        )
    traits = ["of the team's own"] if own else []
    online, with_image = await placement.online(cp.db, wanted.team_id, found.image)
    if not with_image:
        return Unavailable(
            " ".join(("no host", *traits, f"has template {wanted.template} yet" if online else "is online")),
            code="no_hosts_available",
            hint="a host that was just added makes it in its first minute: try again then"
            if online
            else "add a host, or see in `wrenn host list` why those that there are do not take sandboxes",
        )
    if wanted.host_tags:
        traits.append(f"with the tags {', '.join(sorted(set(wanted.host_tags)))}")
    if wanted.availability_zone is not None:
        traits.append(f"in the zone {wanted.availability_zone}")
    return Unavailable(
        " ".join(("no host", *traits, "has room for this sandbox now")),
        code="no_hosts_available",
        hint="ask for less memory or disk, end sandboxes that are not needed, or add a host",
    )


def _checked(wanted: Wanted) -> Wanted:
    """:raises InvalidRequest: it contradicts itself"""
    if not wanted.pause_memory and wanted.on_timeout != "pause":
        raise InvalidRequest("pause_memory is false, but on_timeout is not pause: nothing would be paused")
    if not wanted.pause_memory and wanted.auto_resume:
        raise InvalidRequest(
            "pause_memory is false: such a sandbox boots when it resumes, auto_resume cannot wake it"
        )
    return replace(
        wanted, network=egress.checked(wanted.network), mask_host=egress.checked_mask_host(wanted.mask_host)
    )


def new_row(wanted: Wanted, template_id: str, image: str, snapshot_id: str | None, ticket: int | None) -> New:
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
        pause_memory=wanted.pause_memory,
        auto_resume=wanted.auto_resume,
        activity=wanted.activity,
        metadata=wanted.metadata,
        network=wanted.network,
        traffic_token=secrets.token_hex(24) if wanted.private else None,
        mask_host=wanted.mask_host,
        image=image,
        snapshot_id=snapshot_id,
        access_token=secrets.token_hex(24),
        key_id=wanted.key_id,
        pool_ticket=ticket,
        host_tags=wanted.host_tags,
        availability_zone=wanted.availability_zone,
    )


async def _start(cp: ControlPlane, row: SandboxRow, host: Host, envs: Mapping[str, str]) -> SandboxRow:
    start = agent.Start(
        generation=row.generation,
        template=row.image,
        snapshot=row.snapshot_id,
        template_id=row.template_id,
        team_id=row.team_id,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        access_token=row.access_token,
        envs=dict(envs),
        ttl_sec=row.timeout_sec or None,
        on_timeout=row.on_timeout,
        pause_memory=row.pause_memory,
        keep_alive=row.keep_alive,
        network=row.network,
    )
    try:
        report = await cp.hosts.start(host, row.id, start)
    except WrennError as error:
        await outcomes.start_failed(cp, row, host, error)
        raise outcomes.as_answer(error, "start") from error
    crash_point("create.host_answered")
    running = await outcomes.started(cp, row, host, report)
    crash_point("create.row_settled")
    return running


# Kill


async def _kill(cp: ControlPlane, team_id: str, sandbox_id: str) -> None:
    while True:
        row = await get(cp, team_id, sandbox_id)
        if row.state is State.KILLED:
            raise _not_found(sandbox_id)
        with cp.work.leased([row.id]):
            killing = await transitions.begin(
                cp.db, row.id, row.generation, _KILLABLE, State.KILLING, reason=Reason.USER
            )
            if killing is None:
                continue  # it changed under us: look again
            crash_point("kill.row_written")
            cp.routes.forget(row.id)
            return await end(cp, killing)


async def end(cp: ControlPlane, row: SandboxRow) -> None:
    """The rest of a kill, whose intent is written: the row is `killing`."""
    try:
        if row.host_id is not None:
            await cp.hosts.kill(await host_of(cp, row), row.id, row.generation)
    except WrennError as error:
        # What is wanted is written down: the reconciler goes on with it.
        log.warning("kill is left for later", action="kill_deferred", sandbox_id=row.id, error=error.message)
        return
    crash_point("kill.host_answered")
    await transitions.settle(
        cp.db, row.id, row.generation, [State.KILLING], State.KILLED, reason=row.reason or Reason.USER
    )
    crash_point("kill.row_settled")


# Errors


def demand(row: SandboxRow, state: State, verb: str) -> None:
    if row.state is not state:
        raise Conflict(f"cannot {verb} sandbox {row.id}: it is {row.state}")


def _not_found(sandbox_id: str) -> NotFound:
    return NotFound(f"sandbox {sandbox_id[:64]} does not exist", code="sandbox_not_found")
