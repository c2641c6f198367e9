"""What agents say of themselves and of their sandboxes."""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.reconcile import decide
from wrenn_server.controlplane.services import hosts, outcomes
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import leases
from wrenn_server.db import reports as db_reports
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import snapshots as db_snapshots
from wrenn_server.db import templates as db_templates
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import InvalidRequest, WrennError
from wrenn_server.model.ids import new_template_id
from wrenn_server.wire import agent

_AT_ONCE = 16
"""Changes of one heartbeat that are written at the same time: some wait for the host, the others must not wait for them."""
_TEMPLATE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")

log = structlog.get_logger()


async def take(cp: ControlPlane, host: HostRow, beat: agent.Heartbeat) -> None:
    """Notes that the host is there, and what it says about its sandboxes."""
    hosts.check_specs(beat.specs)
    if not 0 <= beat.sequence < 2**62:
        raise InvalidRequest("sequence is not a number that a heartbeat can have")
    address = hosts.address_of(host, beat.address)
    templates, installation = _names(beat.templates), beat.installation[: hosts.INSTALLATION]
    fresh = await db_hosts.heartbeat(
        cp.db,
        host.id,
        started_at=beat.started_at,
        sequence=beat.sequence,
        address=None if address is None else str(address),
        specs=beat.specs,
        templates=templates,
        installation=installation,
    )
    if not fresh:
        if not await db_hosts.speaks(cp.db, host.id, installation):
            raise hosts.identity_in_use(host.id)
        return
    if host.status != "online":
        log.info("host is online", action="host_online", host_id=host.id)
    # What a team's own host calls its images must not become names that everybody sees.
    if host.team_id is None and (added := sorted(set(templates) - set(host.templates))):
        await db_templates.insert_platform(cp.db, [new_template_id() for _ in added], added)
    await _compare(cp, host, beat.sandboxes)
    await _note_expiry(cp, host, beat.sandboxes)
    if beat.specs.store:
        await _note_stored(cp, host, beat)


async def _compare(cp: ControlPlane, host: HostRow, reports: Sequence[agent.SandboxReport]) -> None:
    """Believes what only the host can know; whatever else looks wrong is for the reconciler to ask about, because a
    heartbeat may have been under way while we acted. Rows are read only where something may follow: hosts say the same
    about most of their sandboxes again and again."""
    reported = {report.id: report for report in reports}
    differing = set(await db_reports.differing(cp.db, host.id, host.team_id, list(reported.values())))
    if not differing:
        return
    known = {
        row.id: row
        for row in await db_sandboxes.of(cp.db, list(differing))
        if host.team_id in (None, row.team_id)
    }
    limit = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for sandbox_id, report in reported.items():
            if sandbox_id not in differing:
                continue
            row = known.get(sandbox_id)
            if row is None:
                log.warning(
                    "unknown sandbox", action="unknown_sandbox", sandbox_id=sandbox_id, host_id=host.id
                )
            elif row.host_id in (host.id, None) and not _has_owner(row):
                decision = decide.from_report(row, report)
                if not isinstance(decision, decide.Nothing | decide.Wait):
                    group.create_task(_believe(cp, host, row, decision, limit), name=f"believe {row.id}")
            elif row.host_id not in (host.id, None):
                left = decide.elsewhere(row, report)
                if isinstance(left, decide.Remove):
                    group.create_task(_forget(cp, host, row, left, limit), name=f"forget {row.id}")
    now = datetime.now(UTC)
    missing = [
        row.id
        for row in known.values()
        if row.host_id == host.id
        and row.id not in reported
        # One that has ended is not missed, and one that rests in the object store need not be there: to look into it at
        # each heartbeat would be for nothing, and would hold its lease meanwhile.
        and not isinstance(decide.absent(row, now), decide.Nothing)
    ]
    if missing:
        await leases.look_into(cp.db, missing)
        cp.wake.set()


async def _note_expiry(cp: ControlPlane, host: HostRow, reports: Sequence[agent.SandboxReport]) -> None:
    put_off = [
        (report.id, report.generation, at)
        for report in reports
        if report.put_off and (at := decide.expires_at(report)) is not None
    ]
    if put_off:
        await db_sandboxes.note_expiry(cp.db, host.id, put_off)


async def _note_stored(cp: ControlPlane, host: HostRow, beat: agent.Heartbeat) -> None:
    stored = [
        (report.id, report.saved_generation, report.stored)
        for report in beat.sandboxes
        if report.stored and report.saved_generation is not None
    ]
    if stored:
        await db_sandboxes.note_stored(cp.db, host.id, beat.specs.store, stored)
    if beat.snapshots:
        await db_snapshots.note_stored(cp.db, host.id, beat.specs.store, beat.snapshots)


async def _forget(
    cp: ControlPlane, host: HostRow, row: SandboxRow, left: decide.Remove, limit: asyncio.Semaphore
) -> None:
    """What a host still has of a sandbox that has gone on elsewhere."""
    log.info("sandbox is elsewhere", action="forget", sandbox_id=row.id, host_id=host.id)
    async with limit:
        try:
            await cp.hosts.kill(cp.host(host.id, host.address), row.id, left.generation, elsewhere=True)
        except WrennError as error:
            log.warning("not forgotten yet", action="forget_failed", sandbox_id=row.id, error=error.message)


async def _believe(
    cp: ControlPlane, host: HostRow, row: SandboxRow, decision: decide.Decision, limit: asyncio.Semaphore
) -> None:
    async with limit:
        try:
            await outcomes.apply(cp, row, cp.host(host.id, host.address), decision)
        except WrennError as error:
            log.warning("report not applied", action="apply_failed", sandbox_id=row.id, error=error.message)


def _has_owner(row: SandboxRow) -> bool:
    """Somebody works on it, or the reconciler will, because its lease has run out."""
    return row.state.is_transitional and row.check_after is not None


def _names(templates: Sequence[str]) -> list[str]:
    return sorted({name for name in templates if _TEMPLATE_NAME.fullmatch(name)})
