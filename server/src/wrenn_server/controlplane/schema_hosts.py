"""What the native API takes and gives about hosts, as in `schema.py`."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from wrenn_server.controlplane.schema import HostTags, Request, Time, Trait

HostType = Annotated[
    Literal["regular", "byoc"],
    Meta(
        description="`regular`: the platform's, for everybody. `byoc`: a team's own, for its sandboxes alone, which then "
        "go nowhere else"
    ),
]


HostStatus = Literal["pending", "online", "unreachable"]


class HostCreate(Request):
    type: HostType = "regular"
    team_id: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="Of a `byoc` one; another team than yours only for administrators of the platform"),
    ] = None
    tags: HostTags = field(default_factory=list[str])
    availability_zone: Trait | None = None


class HostUpdate(Request):
    tags: Annotated[HostTags | UnsetType, Meta(description="Instead of those before")] = UNSET
    availability_zone: Trait | UnsetType | None = UNSET


class Host(Struct, kw_only=True):
    id: str
    type: HostType
    team_id: Annotated[str | UnsetType, Meta(description="Whose own it is")] = UNSET
    tags: list[str]
    availability_zone: str | UnsetType = UNSET
    status: HostStatus
    address: str | UnsetType = UNSET
    arch: str
    cpus: int
    memory_mb: int
    disk_mb: int
    vmm: str
    vmm_version: str
    accelerated: bool
    version: str
    templates: list[str]
    draining: Annotated[bool, Meta(description="It is to become empty, and takes nothing new")]
    sandboxes: int
    cpus_reserved: int
    memory_mb_reserved: int
    disk_mb_reserved: int
    last_heartbeat_at: Time | UnsetType = UNSET
    created_by: str | UnsetType = UNSET
    created_at: Time
    updated_at: Time


class HostDeletePreview(Struct, kw_only=True):
    host: Host
    sandbox_ids: Annotated[list[str], Meta(description="Would be `failed`, and what they have lost")]
    kept_sandbox_ids: Annotated[
        list[str], Meta(description="Rest in an object store, and would resume on other hosts")
    ]
    snapshot_ids: Annotated[list[str], Meta(description="Are in no object store, and would be lost")]


class HostCreated(Struct, kw_only=True):
    host: Host
    registration_token: str
