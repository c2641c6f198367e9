"""What the published `wrenn` SDK sends and reads. It refuses answers with another word where it knows a few, and times
without an offset; requests may have fields that are not here."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from wrenn_server.controlplane.api.samples import Range
from wrenn_server.controlplane.schema import (
    MemoryMb,
    Path,
    SnapshotName,
    TemplateRef,
    Time,
    TimeoutSec,
    Vcpus,
)
from wrenn_server.controlplane.schema_events import CapsuleStatus
from wrenn_server.model.sandbox import Shape

Metadata = Annotated[
    dict[
        Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$(?!\n)")],
        Annotated[str, Meta(max_length=64)],
    ],
    Meta(max_length=20),
]


class NewCapsule(Struct, kw_only=True):
    template: TemplateRef | None = None
    vcpus: Vcpus = Shape.VCPUS_DEFAULT
    memory_mb: MemoryMb = Shape.MEMORY_DEFAULT
    timeout_sec: TimeoutSec = 0
    metadata: Metadata = {}


class Capsule(Struct, kw_only=True):
    id: str
    status: CapsuleStatus
    template: str
    vcpus: int
    memory_mb: int
    timeout_sec: int
    created_at: Time
    started_at: Time | UnsetType = UNSET
    last_active_at: Time | UnsetType = UNSET
    last_updated: Time
    metadata: dict[str, str]
    disk_size_mb: int
    disk_used_mb: int | UnsetType = UNSET
    """Of one that is asked for by its id, when it has been measured."""


# Files


class FilePath(Struct):
    path: Path


class FileEntry(Struct, kw_only=True):
    name: str
    path: str
    type: Literal["file", "directory", "symlink"]
    size: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_at: int
    """Unix seconds."""
    symlink_target: str | UnsetType = UNSET


class Listing(Struct):
    entries: list[FileEntry]


class Made(Struct):
    entry: FileEntry


# Metrics


class MetricsPoint(Struct, kw_only=True):
    timestamp_unix: int
    cpu_pct: float
    mem_bytes: int
    disk_bytes: int


class Metrics(Struct, kw_only=True):
    sandbox_id: str
    range: Range
    points: list[MetricsPoint]


# Templates


TemplateType = Literal["base", "snapshot"]


class NewSnapshot(Struct, kw_only=True):
    sandbox_id: str
    name: SnapshotName | None = None


class SnapshotTaken(Capsule, kw_only=True):
    """The capsule that it was taken of, which is what the published server answers, and what the SDK reads of it: a
    Template. `created_at` is the snapshot's."""

    name: str
    type: Literal["snapshot"] = "snapshot"
    size_bytes: int
    platform: bool = False
    protected: bool = False


class Template(Struct, kw_only=True):
    name: str
    type: TemplateType
    vcpus: int | UnsetType = UNSET
    memory_mb: int | UnsetType = UNSET
    size_bytes: int
    created_at: Time
    platform: bool
    protected: bool
