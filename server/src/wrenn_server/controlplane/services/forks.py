"""Forking: copies of a running sandbox, each of which succeeds or fails by itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host
from wrenn_server.controlplane.services import outcomes, sandboxes
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Internal, Unavailable, WrennError
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent


@dataclass(frozen=True, slots=True)
class Forked:
    """One of a fork's results: a sandbox, or why there is none."""

    sandbox: SandboxRow | None
    error: WrennError | None
    renewed: list[str] = field(default_factory=list[str])
    """Of `model.sandbox.RENEWED`: what its guest has of its own, by its own word."""


async def fork(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    *,
    count: int,
    timeout_sec: int | None,
    metadata: Mapping[str, str] | None,
    key_id: str | None = None,
    ticket: int | None = None,
) -> list[Forked]:
    """Copies of a running sandbox, memory and disk, on its host; it keeps running.

    :param key_id: of the API key that asks; :param ticket: the place in the queue for the team's pool
    :raises Conflict: it is not running; :raises Unavailable: its host has no room for all of them
    :raises PoolExhausted: the team's pool has no room for all of them
    """
    return await cp.work.finish(
        _fork(cp, team_id, sandbox_id, count, timeout_sec, metadata, key_id, ticket), f"fork {sandbox_id}"
    )


async def _fork(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    count: int,
    timeout_sec: int | None,
    metadata: Mapping[str, str] | None,
    key_id: str | None,
    ticket: int | None,
) -> list[Forked]:
    source = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(source, State.RUNNING, "fork")
    host = await sandboxes.host_of(cp, source)
    wanted = sandboxes.Wanted(
        team_id=team_id,
        template=source.template,
        vcpus=source.vcpus,
        memory_mb=source.memory_mb,
        disk_mb=source.disk_mb,
        timeout_sec=source.timeout_sec if timeout_sec is None else timeout_sec,
        on_timeout=source.on_timeout,
        metadata=source.metadata if metadata is None else metadata,
        envs={},
        pause_memory=source.pause_memory,
        auto_resume=source.auto_resume,
        activity=source.activity,
        network=source.network,
        private=source.traffic_token is not None,
        mask_host=source.mask_host,
        key_id=key_id,
        host_tags=source.host_tags,
        availability_zone=source.availability_zone,
    )
    new = [
        sandboxes.new_row(wanted, source.template_id, source.image, source.snapshot_id, ticket)
        for _ in range(count)
    ]
    with cp.work.leased([n.id for n in new]):
        inserted = await db_sandboxes.insert_many(cp.db, new, host.id, cp.config.room)
        if not inserted:
            raise Unavailable(
                f"the host of sandbox {source.id} has no room for {count} more like it",
                code="no_hosts_available",
            )
        crash_point("fork.rows_written")
        targets = [
            agent.ForkTarget(
                id=row.id,
                generation=row.generation,
                access_token=row.access_token,
                ttl_sec=row.timeout_sec or None,
                on_timeout=row.on_timeout,
                pause_memory=row.pause_memory,
                keep_alive=row.keep_alive,
            )
            for row in inserted
        ]
        message = agent.Fork(generation=source.generation, targets=targets)
        try:
            report = await cp.hosts.fork(host, source.id, message)
        except WrennError as error:
            for row in inserted:
                await outcomes.start_failed(cp, row, host, error)
            raise await outcomes.failed(cp, source, host, error, "fork") from error
        crash_point("fork.host_answered")
        results = {result.id: result for result in report.results}
        return [await _forked(cp, row, host, results.get(row.id)) for row in inserted]


async def _forked(cp: ControlPlane, row: SandboxRow, host: Host, result: agent.ForkResult | None) -> Forked:
    try:
        if result is not None and result.report is not None:
            running = await outcomes.started(cp, row, host, result.report)
            crash_point("fork.row_settled")
            return Forked(running, None, result.report.renewed)
        error: WrennError = Internal("the host did not fork this one", code="agent_error")
        if result is not None and result.error_message:
            error = Internal(result.error_message, code=result.error_code)
        await outcomes.start_failed(cp, row, host, error)
    except WrennError as failed:
        error = failed
    return Forked(None, error)
