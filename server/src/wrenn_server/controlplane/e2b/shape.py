"""Rows as E2B's SDKs read them. Pure."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, cast

from msgspec import UNSET, UnsetType, structs

from wrenn_server.controlplane.e2b import errors, schema
from wrenn_server.controlplane.services.forks import Forked
from wrenn_server.db.samples import SampleRow
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.db.snapshots import SnapshotRow
from wrenn_server.db.templates import SummaryRow, TagRow
from wrenn_server.model.ids import parse_snapshot_id
from wrenn_server.model.sandbox import Shape, State

ENVD_VERSION = "0.6.13"
"""That the SDKs take for enough for all that they can; for sandboxes and templates that have not told theirs."""
_CLIENT = "wrenn"
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of sandboxes that end only when they are told to; E2B has none of those."""
_BUILDS = uuid.UUID("6f3b1a52-7f0e-4f7e-9c53-0d6a4f7d1c11")


def sandbox(row: SandboxRow, domain: str | None) -> schema.Sandbox:
    return schema.Sandbox(
        template_id=row.template_id,
        sandbox_id=row.id,
        client_id=_CLIENT,
        envd_version=row.envd_version or ENVD_VERSION,
        envd_access_token=row.access_token,
        traffic_access_token=row.traffic_token,
        domain=domain,
        alias=_alias(row),
    )


def listed(row: SandboxRow) -> schema.ListedSandbox:
    return schema.ListedSandbox(
        template_id=row.template_id,
        sandbox_id=row.id,
        client_id=_CLIENT,
        started_at=row.started_at or row.created_at,
        end_at=_end(row),
        cpu_count=row.vcpus,
        memory_mb=row.memory_mb,
        disk_size_mb=row.disk_mb,
        state=_state(row),
        envd_version=row.envd_version or ENVD_VERSION,
        metadata=row.metadata,
        alias=_alias(row),
    )


def detail(row: SandboxRow, domain: str | None, *, secrets: bool) -> schema.SandboxDetail:
    return schema.SandboxDetail(
        **structs.asdict(listed(row)),
        envd_access_token=row.access_token if secrets else "",  # the SDKs demand a text
        domain=domain,
        allow_internet_access=row.network.internet,
        network=schema.Network(
            allow_public_traffic=row.traffic_token is None,
            allow_out=row.network.allow_out,
            deny_out=row.network.deny_out,
            dns_servers=row.network.dns_servers or UNSET,
            mask_request_host=row.mask_host or UNSET,
        ),
        lifecycle=schema.Lifecycle(
            auto_resume=row.auto_resume, on_timeout=cast('Literal["kill", "pause"]', row.on_timeout)
        ),
        pause_mode=_pause_mode(row),
    )


def fork_result(forked: Forked, domain: str | None) -> schema.ForkResult:
    return schema.ForkResult(
        sandbox=sandbox(forked.sandbox, domain) if forked.sandbox else UNSET,
        error=errors.shape(forked.error) if forked.error else UNSET,
    )


def snapshot(row: SnapshotRow) -> schema.Snapshot:
    return schema.Snapshot(snapshot_id=row.id, names=row.names)


def tag(row: TagRow) -> schema.Tag:
    return schema.Tag(tag=row.tag, build_id=build_id(row.snapshot_id), created_at=row.created_at)


def template(row: SummaryRow) -> schema.Template:
    names = [row.name]
    return schema.Template(
        template_id=row.id,
        build_id=build_id(row.snapshot_id or row.id),
        cpu_count=row.vcpus or Shape.VCPUS_DEFAULT,
        memory_mb=row.memory_mb or Shape.MEMORY_DEFAULT,
        disk_size_mb=row.disk_mb or Shape.DISK_DEFAULT,
        public=row.team_id is None,
        aliases=names,
        names=names,
        created_at=row.created_at,
        updated_at=row.saved_at or row.created_at,
        created_by=None,
        last_spawned_at=None,
        spawn_count=0,
        build_count=row.snapshots or 1,
        envd_version=ENVD_VERSION,
        build_status="ready",
    )


def template_with_builds(row: SummaryRow, made_of: Sequence[SnapshotRow]) -> schema.TemplateWithBuilds:
    return schema.TemplateWithBuilds(
        **structs.asdict(template(row)), builds=[_build(snapshot) for snapshot in made_of]
    )


def metric(row: SampleRow) -> schema.Metric:
    return schema.Metric(
        timestamp=row.at,
        timestamp_unix=int(row.at.timestamp()),
        cpu_count=row.cpu_count,
        cpu_used_pct=row.cpu_used_pct,
        mem_used=row.mem_used,
        mem_total=row.mem_total,
        mem_cache=row.mem_cache,
        disk_used=row.disk_used,
        disk_total=row.disk_total,
    )


def build_id(id: str) -> str:
    """The SDKs want a UUID for what we call a snapshot, or for the image of a template: always the same one."""
    return str(uuid.uuid5(_BUILDS, id))


def _build(row: SnapshotRow) -> schema.Build:
    return schema.Build(
        build_id=build_id(row.id),
        status="ready",
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.updated_at,
        cpu_count=row.vcpus,
        memory_mb=row.memory_mb,
        disk_size_mb=row.disk_mb,
        envd_version=ENVD_VERSION,
    )


def _alias(row: SandboxRow) -> str | UnsetType:
    return UNSET if parse_snapshot_id(row.template) else row.template


def _state(row: SandboxRow) -> schema.State:
    return "paused" if row.state in (State.PAUSING, State.PAUSED) else "running"


def _end(row: SandboxRow) -> datetime:
    """Of a paused one: when it was paused."""
    if row.state in (State.PAUSING, State.PAUSED):
        return row.updated_at
    return row.expires_at or _NEVER


def _pause_mode(row: SandboxRow) -> Literal["full", "filesystem"] | UnsetType:
    if row.state is not State.PAUSED or row.saved_memory is None:
        return UNSET
    return "full" if row.saved_memory else "filesystem"
