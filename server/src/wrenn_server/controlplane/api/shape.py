"""Rows as the API's structs. Pure."""

from typing import Literal, TypeVar, cast

from msgspec import UNSET, UnsetType

from wrenn_server.controlplane import schema, schema_hosts
from wrenn_server.controlplane.services.exec import ProcessInfo
from wrenn_server.controlplane.services.files import Entry
from wrenn_server.controlplane.services.forks import Forked
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.samples import SampleRow
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.db.snapshots import SnapshotRow
from wrenn_server.db.templates import TemplateRow
from wrenn_server.model.sandbox import Reason
from wrenn_server.model.template import DEFAULT_TAG
from wrenn_server.wire import agent

T = TypeVar("T")

FileType = Literal["file", "directory", "symlink", "unknown"]
_FILE_TYPES: dict[str, FileType] = {
    "FILE_TYPE_FILE": "file",
    "FILE_TYPE_DIRECTORY": "directory",
    "FILE_TYPE_SYMLINK": "symlink",
}
_MAX_SIZE = 2**63 - 1


def sandbox(row: SandboxRow, *, secrets: bool) -> schema.Sandbox:
    """:param secrets: with the tokens of envd and of its ports"""
    return schema.Sandbox(
        id=row.id,
        status=row.state,
        template=row.template,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        timeout_sec=row.timeout_sec,
        on_timeout=cast("schema.OnTimeout", row.on_timeout),
        pause_memory=row.pause_memory,
        auto_resume=row.auto_resume,
        activity=row.activity,
        saved_memory=or_unset(row.saved_memory),
        created_at=row.created_at,
        started_at=or_unset(row.started_at),
        last_active_at=or_unset(row.last_active_at),
        last_updated=row.updated_at,
        expires_at=or_unset(row.expires_at),
        metadata=row.metadata,
        network=network(row.network),
        private=row.traffic_token is not None,
        traffic_token=or_unset(row.traffic_token) if secrets else UNSET,
        mask_host=or_unset(row.mask_host),
        snapshot_id=or_unset(row.snapshot_id),
        generation=row.generation,
        host_id=or_unset(row.host_id),
        host_tags=row.host_tags,
        availability_zone=or_unset(row.availability_zone),
        envd_version=row.envd_version or UNSET,
        envd_access_token=row.access_token if secrets else UNSET,
        reason=Reason(row.reason) if row.reason else UNSET,
        message=or_unset(row.message),
        console=or_unset(row.console),
    )


def network(found: agent.Network) -> schema.Network:
    return schema.Network(
        internet=found.internet,
        allow_out=found.allow_out,
        deny_out=found.deny_out,
        dns_servers=found.dns_servers,
    )


def wanted_network(given: schema.Network) -> agent.Network:
    return agent.Network(
        internet=given.internet,
        allow_out=given.allow_out,
        deny_out=given.deny_out,
        dns_servers=given.dns_servers,
    )


def metrics_point(row: SampleRow) -> schema.MetricsPoint:
    return schema.MetricsPoint(
        timestamp_unix=row.at.timestamp(),
        cpu_pct=row.cpu_used_pct,
        cpu_count=row.cpu_count,
        mem_bytes=row.mem_used,
        mem_cache_bytes=row.mem_cache,
        mem_total_bytes=row.mem_total,
        disk_bytes=row.disk_used,
        disk_total_bytes=row.disk_total,
    )


def fork_result(forked: Forked) -> schema.Forked:
    return schema.Forked(
        sandbox=sandbox(forked.sandbox, secrets=True) if forked.sandbox else UNSET,
        error=schema.ForkError(forked.error.code, forked.error.message) if forked.error else UNSET,
        renewed=forked.renewed if forked.sandbox else UNSET,
    )


def snapshot(row: SnapshotRow) -> schema.Snapshot:
    return schema.Snapshot(
        id=row.id,
        sandbox_id=row.sandbox_id,
        names=row.names,
        template=row.template,
        memory=row.memory,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        size_bytes=row.size_bytes,
        host_id=or_unset(row.host_id),
        created_at=row.created_at,
        name=snapshot_name(row),
    )


def snapshot_name(row: SnapshotRow) -> str:
    """The shortest text that leads to it: its name, or else its id."""
    return row.names[0].removesuffix(f":{DEFAULT_TAG}") if row.names else row.id


def process(info: ProcessInfo) -> schema.Process:
    return schema.Process(pid=info.pid, cmd=info.config.cmd, args=info.config.args, tag=or_unset(info.tag))


def file_entry(entry: Entry) -> schema.FileEntry:
    """A link is a link, whatever it leads to."""
    text = str(entry.size)
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return schema.FileEntry(
        name=entry.name,
        path=entry.path,
        type="symlink" if entry.symlink_target else _FILE_TYPES.get(entry.type, "unknown"),
        size=min(size, _MAX_SIZE),
        mode=entry.mode,
        permissions=entry.permissions,
        owner=entry.owner,
        group=entry.group,
        modified_at=entry.modified_time,
        symlink_target=entry.symlink_target or UNSET,
    )


def template(row: TemplateRow) -> schema.Template:
    return schema.Template(id=row.id, name=row.name, platform=row.team_id is None, created_at=row.created_at)


def host(row: HostRow) -> schema_hosts.Host:
    return schema_hosts.Host(
        id=row.id,
        type=cast("schema_hosts.HostType", row.type),
        team_id=or_unset(row.team_id),
        tags=row.tags,
        availability_zone=or_unset(row.availability_zone),
        status=cast("schema_hosts.HostStatus", row.status),
        address=or_unset(row.address),
        arch=row.arch,
        cpus=row.cpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        vmm=row.vmm,
        vmm_version=row.vmm_version,
        accelerated=row.accelerated,
        version=row.version,
        templates=row.templates,
        draining=row.draining,
        sandboxes=row.sandboxes,
        cpus_reserved=row.cpus_reserved,
        memory_mb_reserved=row.memory_mb_reserved,
        disk_mb_reserved=row.disk_mb_reserved,
        last_heartbeat_at=or_unset(row.last_heartbeat_at),
        created_by=or_unset(row.created_by),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def or_unset(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value
