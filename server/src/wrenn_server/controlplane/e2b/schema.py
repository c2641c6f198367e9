"""What E2B's SDKs send and read, by the names on the wire. Requests may have fields that are not here; a field of the
wrong type is refused, and null is the same as nothing."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from wrenn_server.controlplane.e2b.errors import Error
from wrenn_server.controlplane.schema import Envs, Metadata

_CAPITALS = {"id": "ID", "mb": "MB"}


def wire_name(name: str) -> str:
    """`sandbox_id` → `sandboxID`, `cpu_used_pct` → `cpuUsedPct`"""
    first, *rest = name.split("_")
    return first + "".join(_CAPITALS.get(word, word.capitalize()) for word in rest)


class Request(Struct, kw_only=True, rename=wire_name):
    pass


class Answer(Struct, kw_only=True, rename=wire_name):
    pass


# What is asked of sandboxes


class NetworkUpdate(Request):
    allow_out: list[str] | None = None
    deny_out: list[str] | None = None
    dns_servers: list[str] | None = None
    egress_proxy: dict[str, Any] | None = None
    rules: dict[str, Any] | None = None
    allow_internet_access: bool | None = field(default=None, name="allow_internet_access")


class NetworkConfig(Request):
    allow_public_traffic: bool | None = None
    allow_out: list[str] | None = None
    deny_out: list[str] | None = None
    dns_servers: list[str] | None = None
    egress_proxy: dict[str, Any] | None = None
    mask_request_host: str | None = None
    https_ports: list[int] | None = None
    rules: dict[str, Any] | None = None


class AutoResume(Request):
    enabled: bool = False


class NewSandbox(Request):
    template_id: str
    timeout: int | None = None
    auto_pause: bool | None = None
    auto_pause_memory: bool | None = None
    auto_resume: AutoResume | None = None
    secure: bool | None = None
    """Only the first version has it."""
    allow_internet_access: bool | None = field(default=None, name="allow_internet_access")
    network: NetworkConfig | None = None
    metadata: Metadata | None = None
    env_vars: Envs | None = None
    mcp: dict[str, Any] | None = None
    iam: dict[str, Any] | None = None
    volume_mounts: list[Any] | None = None


class Connect(Request):
    timeout: int | None = None
    memory: bool | None = None


class Resume(Request):
    timeout: int | None = None
    auto_pause: bool | None = None
    memory: bool | None = None


class Pause(Request):
    memory: bool | None = None
    require_healthy_guest: bool | None = None


class Timeout(Request):
    timeout: int


class Refresh(Request):
    duration: int | None = None


class Fork(Request):
    timeout: int | None = None
    count: int | None = None


class NewSnapshot(Request):
    name: str | None = None
    memory: bool | None = None


# What is told of sandboxes

State = Literal["running", "paused"]


class Sandbox(Answer):
    template_id: str
    sandbox_id: str
    client_id: str
    """Any text; the SDKs of 2024 append it to the id."""
    envd_version: str
    envd_access_token: str
    traffic_access_token: str | None
    domain: str | None
    alias: str | UnsetType = UNSET


class Network(Answer):
    allow_public_traffic: bool
    allow_out: list[str]
    deny_out: list[str]
    dns_servers: list[str] | UnsetType = UNSET
    mask_request_host: str | UnsetType = UNSET


class Lifecycle(Answer):
    auto_resume: bool
    on_timeout: Literal["kill", "pause"]


class ListedSandbox(Answer):
    template_id: str
    sandbox_id: str
    client_id: str
    started_at: datetime
    end_at: datetime
    cpu_count: int
    memory_mb: int
    disk_size_mb: int
    state: State
    envd_version: str
    metadata: dict[str, str]
    volume_mounts: list[Any] = []
    alias: str | UnsetType = UNSET


class SandboxDetail(ListedSandbox, kw_only=True):
    envd_access_token: str
    domain: str | None
    allow_internet_access: bool
    network: Network
    lifecycle: Lifecycle
    pause_mode: Literal["full", "filesystem"] | UnsetType = UNSET
    """Of a paused one."""


class ForkResult(Answer):
    """Either of the two."""

    sandbox: Sandbox | UnsetType = UNSET
    error: Error | UnsetType = UNSET


class Metric(Answer):
    """The last five in bytes."""

    timestamp: datetime
    timestamp_unix: int
    cpu_count: int
    cpu_used_pct: float
    mem_used: int
    mem_total: int
    mem_cache: int
    disk_used: int
    disk_total: int


class LatestMetrics(Answer):
    sandboxes: dict[str, Metric]
    """By the id of the sandbox."""


class Logs(Answer):
    logs: list[Any] = []
    log_entries: list[Any] = []


# Snapshots, templates


class Snapshot(Answer):
    snapshot_id: str
    names: list[str]


class TemplateAlias(Answer):
    template_id: str
    public: bool


class AssignTags(Request):
    target: str
    tags: list[str]


class RemoveTags(Request):
    name: str
    tags: list[str]


class AssignedTags(Answer):
    tags: list[str]
    build_id: str
    """A UUID, as wherever builds are named."""


class Tag(Answer):
    tag: str
    build_id: str
    created_at: datetime


class TagCount(Answer):
    total: int


class TagExists(Answer):
    exists: bool
    normalized_tag: str


class Build(Answer):
    build_id: str
    status: Literal["ready"]
    created_at: datetime
    updated_at: datetime
    finished_at: datetime
    cpu_count: int
    memory_mb: int
    disk_size_mb: int
    envd_version: str


class Template(Answer):
    template_id: str
    build_id: str
    cpu_count: int
    memory_mb: int
    disk_size_mb: int
    public: bool
    aliases: list[str]
    names: list[str]
    created_at: datetime
    updated_at: datetime
    created_by: None
    last_spawned_at: None
    spawn_count: int
    build_count: int
    envd_version: str
    build_status: Literal["ready"]


class TemplateWithBuilds(Template):
    builds: list[Build]
