"""What the native API takes and gives. Times are RFC 3339 UTC, sizes MiB or bytes and durations seconds as the name says.

Requests refuse fields that they do not know: a misspelt name must not be a silent default.
"""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from wrenn_server.model.sandbox import Activity, Reason, Shape, State

Time = Annotated[datetime, Meta(tz=True)]
TemplateRef = Annotated[
    str,
    Meta(
        pattern=r"^[a-zA-Z0-9_-][a-zA-Z0-9._:/-]{0,255}$(?!\n)",
        description="Name, `name:tag`, or the id of a template or a snapshot",
    ),
]
"""In Python `$` also matches before a last newline."""
SnapshotName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}(:[a-zA-Z0-9_.-]{1,128})?$(?!\n)")]
Vcpus = Annotated[int, Meta(ge=Shape.VCPUS_MIN, le=Shape.VCPUS_MAX)]
MemoryMb = Annotated[int, Meta(ge=Shape.MEMORY_MIN, le=Shape.MEMORY_MAX)]
DiskMb = Annotated[int, Meta(ge=Shape.DISK_MIN, le=Shape.DISK_MAX)]
TimeoutSec = Annotated[
    int, Meta(ge=0, le=Shape.TIMEOUT_MAX, description="Seconds until it ends by itself; 0: never")
]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[str, Meta(max_length=4096)]],
    Meta(max_length=64),
]
Envs = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[^=]{1,256}$")], Annotated[str, Meta(max_length=65536)]],
    Meta(max_length=1024),
]
Trait = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._:/=-]{0,62}$(?!\n)")]
HostTags = Annotated[list[Trait], Meta(max_length=32)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]


class Request(Struct, kw_only=True, forbid_unknown_fields=True):
    pass


# Sandboxes

OnTimeout = Literal["kill", "pause"]
AutoResume = Annotated[bool, Meta(description="Requests to its ports wake it when it is paused")]
USES = (Activity.API, Activity.TRAFFIC)
"""What puts off the timeout of a sandbox whose creator does not say."""
Activities = Annotated[
    list[Activity],
    Meta(
        description="What puts off its timeout: it ends `timeout_sec` after the last of it. `api`: its programs and files "
        "are used, through this API or an SDK. `traffic`: requests and connections to its own ports. `terminal`: "
        "somebody is attached to a terminal. `command`: a program that was started through the API or an SDK runs. "
        "Empty: nothing. Not given: `api` and `traffic`"
    ),
]
PauseMemory = Annotated[
    bool,
    Meta(description="What a pause at its timeout keeps; false: the disk alone, so that the resume boots"),
]
MaskHost = Annotated[
    str,
    Meta(
        max_length=264,
        description="What its ports are told as the Host of requests, e.g. `localhost:${PORT}`",
    ),
]
Rule = Annotated[str, Meta(min_length=1, max_length=256)]
Rules = Annotated[list[Rule], Meta(max_length=1000)]


class Network(Request):
    """What it may reach. Private ranges, the host and other sandboxes are closed whatever stands here."""

    internet: Annotated[bool, Meta(description="False: nothing but `allow_out`")] = True
    allow_out: Annotated[
        Rules,
        Meta(
            description="IPv4 addresses, CIDRs, `host.name`, `*.host.name`; wins over `deny_out`. Names need `internet` "
            "to be false, or 0.0.0.0/0 in `deny_out`"
        ),
    ] = []
    deny_out: Annotated[Rules, Meta(description="IPv4 addresses and CIDRs")] = []
    dns_servers: Annotated[
        list[Rule], Meta(max_length=8, description="IPv4 addresses; none: the host's own choice")
    ] = []


class WhenFull(Request):
    """What a start does when the team's pool has no room; without either it fails with `pool_exhausted`."""

    wait_sec: Annotated[int, Meta(ge=0, le=600, description="Wait so long for its turn")] = 0
    make_room: Annotated[
        bool, Meta(description="Pause the longest idle sandboxes whose `on_timeout` is `pause`")
    ] = False


class SandboxCreate(WhenFull):
    template: TemplateRef = "minimal"
    vcpus: Vcpus = Shape.VCPUS_DEFAULT
    memory_mb: MemoryMb = Shape.MEMORY_DEFAULT
    disk_mb: DiskMb = Shape.DISK_DEFAULT
    timeout_sec: TimeoutSec = 0
    on_timeout: OnTimeout = "kill"
    pause_memory: PauseMemory = True
    auto_resume: AutoResume = False
    activity: Annotated[Activities, Meta(max_length=len(Activity))] = field(default_factory=lambda: [*USES])
    metadata: Metadata = {}
    envs: Envs = {}
    network: Network = field(default_factory=Network)
    host_tags: Annotated[HostTags, Meta(description="Only hosts that have all of these take it")] = []
    availability_zone: Annotated[
        Trait | None, Meta(description="Only hosts of this zone take it; absent: any")
    ] = None
    private: Annotated[
        bool,
        Meta(description="Requests to its ports must carry `traffic_token` in `E2b-Traffic-Access-Token`"),
    ] = False
    mask_host: MaskHost | None = None


class SandboxPause(Request):
    memory: Annotated[
        bool, Meta(description="False: keep the disk alone; programs end, and the resume boots")
    ] = True


class SandboxResume(WhenFull):
    timeout_sec: TimeoutSec | None = None
    memory: Annotated[bool, Meta(description="False: boot from the disk even if memory was saved")] = True


class SandboxRestore(WhenFull):
    timeout_sec: TimeoutSec | None = None


class SandboxRollback(Request):
    snapshot: Annotated[TemplateRef, Meta(description="Of this very sandbox: its id, `name` or `name:tag`")]


class SandboxFork(WhenFull):
    count: Annotated[int, Meta(ge=1, le=100)] = 1
    timeout_sec: TimeoutSec | None = None
    metadata: Metadata | None = None


class SandboxSnapshot(Request):
    name: Annotated[
        SnapshotName | None, Meta(description="`name` or `name:tag` that leads to it from now on")
    ] = None
    memory: Annotated[bool, Meta(description="False: the disk alone; sandboxes made of it boot")] = True


class SandboxTimeout(Request):
    timeout_sec: TimeoutSec


class Sandbox(Struct, kw_only=True):
    id: str
    status: State
    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    timeout_sec: int
    on_timeout: OnTimeout
    pause_memory: PauseMemory
    auto_resume: AutoResume
    activity: Activities
    saved_memory: Annotated[
        bool | UnsetType, Meta(description="Of a paused one: false when its resume will boot")
    ] = UNSET
    created_at: Time
    started_at: Time | UnsetType = UNSET
    last_active_at: Time | UnsetType = UNSET
    last_updated: Time
    expires_at: Time | UnsetType = UNSET
    metadata: dict[str, str]
    network: Network
    private: bool
    traffic_token: Annotated[
        str | UnsetType, Meta(description="Of a private one; where `envd_access_token` is")
    ] = UNSET
    mask_host: str | UnsetType = UNSET
    snapshot_id: Annotated[str | UnsetType, Meta(description="That it was created from")] = UNSET
    generation: int
    host_id: str | UnsetType = UNSET
    host_tags: list[str]
    availability_zone: str | UnsetType = UNSET
    envd_version: str | UnsetType = UNSET
    envd_access_token: Annotated[
        str | UnsetType, Meta(description="In the answers of create, get, resume, rollback and fork")
    ] = UNSET
    reason: Reason | UnsetType = UNSET
    message: str | UnsetType = UNSET
    console: str | UnsetType = UNSET


class MetricsPoint(Struct, kw_only=True):
    timestamp_unix: float
    cpu_pct: Annotated[float, Meta(description="Of all its processors together, 0 to 100")]
    cpu_count: int
    mem_bytes: Annotated[int, Meta(description="Used, without the page cache")]
    mem_cache_bytes: int
    mem_total_bytes: int
    disk_bytes: int
    disk_total_bytes: int


class Metrics(Struct, kw_only=True):
    sandbox_id: str
    points: Annotated[list[MetricsPoint], Meta(description="Oldest first")]


class ForkError(Struct):
    code: str
    message: str


class Forked(Struct, kw_only=True):
    """Either of the two."""

    sandbox: Sandbox | UnsetType = UNSET
    error: ForkError | UnsetType = UNSET
    renewed: Annotated[
        list[str] | UnsetType,
        Meta(
            description="What the copy has of its own instead of its source's, by its guest's word: `random` (the kernel's "
            "random numbers), `clock`, `hostname`, `machine_id`, `boot_id`, `ssh_host_keys`, `token` (envd's)"
        ),
    ] = UNSET


# Snapshots


class Snapshot(Struct, kw_only=True):
    id: str
    sandbox_id: Annotated[str, Meta(description="The sandbox that it was taken of")]
    names: Annotated[list[str], Meta(description="`name:tag` of all that lead to it")]
    template: Annotated[str, Meta(description="What its source was made of")]
    memory: bool
    vcpus: int
    memory_mb: int
    disk_mb: int
    size_bytes: Annotated[int, Meta(description="That it takes on its host's disk")]
    host_id: str | UnsetType = UNSET
    created_at: Time
    name: Annotated[str, Meta(description="The first of `names`, without the tag `default`; or the id")]
    type: Annotated[Literal["snapshot"], Meta(description="For the `wrenn` 0.3 SDK, as the two below")] = (
        "snapshot"
    )
    platform: bool = False
    protected: bool = False


# Programs


class Exec(Request):
    cmd: Annotated[str, Meta(min_length=1, max_length=131072)]
    args: Annotated[list[Annotated[str, Meta(max_length=131072)]], Meta(max_length=10000)] = []
    timeout_sec: Annotated[float, Meta(gt=0, le=3600)] = 30
    envs: Envs = {}
    cwd: Path | None = None
    user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    background: bool = False
    tag: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class ExecResult(Struct, kw_only=True):
    sandbox_id: str
    cmd: str
    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int
    encoding: Literal["utf-8", "base64"]


class ExecStarted(Struct, kw_only=True):
    sandbox_id: str
    cmd: str
    pid: int
    tag: str


class Process(Struct, kw_only=True):
    pid: int
    cmd: str
    args: list[str]
    tag: str | UnsetType = UNSET


class ProcessList(Struct):
    processes: list[Process]


# Files


class FileRead(Request):
    path: Path


class FileList(Request):
    path: Path
    depth: Annotated[int, Meta(ge=0, le=1000)] = 1


class FileEntry(Struct, kw_only=True):
    name: str
    path: str
    type: Literal["file", "directory", "symlink", "unknown"]
    size: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_at: str
    symlink_target: str | UnsetType = UNSET


class Listing(Struct):
    entries: list[FileEntry]


# Users, keys, templates


class Template(Struct, kw_only=True):
    id: str
    name: str
    platform: Annotated[bool, Meta(description="There for every team")]
    created_at: Time


class Health(Struct):
    status: Literal["ok"]
    version: str
