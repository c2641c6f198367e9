"""Rows as the published `wrenn` SDK reads them. Pure."""

from datetime import UTC, datetime
from typing import Literal

from msgspec import UNSET, structs

from wrenn_server.controlplane.api import shape
from wrenn_server.controlplane.api.samples import Range
from wrenn_server.controlplane.api.shape import or_unset
from wrenn_server.controlplane.api.shape_events import CAPSULE_STATUS
from wrenn_server.controlplane.capsules import schema
from wrenn_server.controlplane.services.files import Entry
from wrenn_server.db.samples import SampleRow
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.db.snapshots import SnapshotRow
from wrenn_server.db.templates import SummaryRow

ENVD_VERSION = "envd_version"
"""In `metadata`, beside what the user gave."""
_MIB = 1024 * 1024
_FILE_TYPES: dict[str, Literal["file", "directory", "symlink"]] = {
    "directory": "directory",
    "symlink": "symlink",
}
"""Sockets and devices are files: the SDK has no word for them."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def capsule(row: SandboxRow, sample: SampleRow | None = None) -> schema.Capsule:
    return schema.Capsule(
        id=row.id,
        status=CAPSULE_STATUS[row.state],
        template=row.template,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        timeout_sec=row.timeout_sec,
        created_at=row.created_at,
        started_at=or_unset(row.started_at),
        last_active_at=or_unset(row.last_active_at),
        last_updated=row.updated_at,
        metadata={**row.metadata, ENVD_VERSION: row.envd_version} if row.envd_version else row.metadata,
        disk_size_mb=row.disk_mb,
        disk_used_mb=UNSET if sample is None else sample.disk_used // _MIB,
    )


def file_entry(entry: Entry) -> schema.FileEntry:
    native = shape.file_entry(entry)
    return schema.FileEntry(
        name=native.name,
        path=native.path,
        type=_FILE_TYPES.get(native.type, "file"),
        size=native.size,
        mode=native.mode,
        permissions=native.permissions,
        owner=native.owner,
        group=native.group,
        modified_at=unix_seconds(native.modified_at),
        symlink_target=native.symlink_target,
    )


def metrics(sandbox_id: str, range: Range, rows: list[SampleRow]) -> schema.Metrics:
    points = [
        schema.MetricsPoint(
            timestamp_unix=int(row.at.timestamp()),
            cpu_pct=row.cpu_used_pct,
            mem_bytes=row.mem_used,
            disk_bytes=row.disk_used,
        )
        for row in rows
    ]
    return schema.Metrics(sandbox_id=sandbox_id, range=range, points=points)


def snapshot_taken(source: SandboxRow, row: SnapshotRow) -> schema.SnapshotTaken:
    of = structs.asdict(capsule(source))
    of["created_at"] = row.created_at
    return schema.SnapshotTaken(**of, name=shape.snapshot_name(row), size_bytes=row.size_bytes)


def snapshot(row: SnapshotRow) -> schema.Template:
    return schema.Template(
        name=shape.snapshot_name(row),
        type="snapshot",
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        platform=False,
        protected=False,
    )


def base(row: SummaryRow) -> schema.Template:
    """A template of the platform. How large its image is, hosts know alone."""
    return schema.Template(
        name=row.name,
        type="base",
        size_bytes=0,
        created_at=row.created_at,
        platform=True,
        protected=True,
    )


def unix_seconds(text: str) -> int:
    """Of a time that the guest told, RFC 3339; 0 when it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        return 0
    return (moment - _EPOCH).days * 86400 + (moment - _EPOCH).seconds
