"""The calls between control plane and host agent, typed once for both ends.

Control plane → agent (JSON over HTTP/1.1, `Authorization: Bearer <JWT aud=host id>`):

```
GET    /v1/health                               -> AgentHealth
GET    /v1/sandboxes                            -> SandboxList
PUT    /v1/sandboxes/{id}             Start     -> SandboxReport    create: restore of the template, usable when it answers
GET    /v1/sandboxes/{id}                       -> SandboxReport
DELETE /v1/sandboxes/{id}?generation=N          -> 204              idempotent, legal in every state
                                                                    `&elsewhere=true`: another host has it
POST   /v1/sandboxes/{id}/pause       Pause     -> SandboxReport    answers when the snapshot is on disk
POST   /v1/sandboxes/{id}/resume      Resume    -> SandboxReport
POST   /v1/sandboxes/{id}/fork        Fork      -> ForkReport       the source keeps running
POST   /v1/sandboxes/{id}/snapshot    Snapshot  -> SnapshotReport   the source keeps running; idempotent by its id
POST   /v1/sandboxes/{id}/timeout     Timeout   -> SandboxReport
PUT    /v1/sandboxes/{id}/network     Rewire    -> SandboxReport    in force, for old connections too, when it answers
POST   /v1/sandboxes/{id}/store       Store     -> SandboxReport    a paused one; answers when it is in the object store
POST   /v1/sandboxes/{id}/fetch       Fetch     -> SandboxReport    from the object store; it is paused here then
POST   /v1/snapshots/{id}/store                 -> 204              answers when it is in the object store
DELETE /v1/snapshots/{id}                       -> 204              idempotent
POST   /v1/templates/{name}/prepare   Prepare   -> TemplateReport   boots and snapshots a template for one shape
POST   /v1/drain                      Drain     -> SandboxList      pause (or kill) every running sandbox
CONNECT {id}:{port}                             -> 200, then raw bytes of a TCP connection inside the sandbox
```

Agent → control plane:

```
POST /v1/hosts/register               Register  -> Registered
POST /v1/hosts/{id}/heartbeat         Heartbeat -> 204  `X-Host-Token: <host JWT>`; 30 s and at once on a change
POST /v1/hosts/{id}/renew             Renew     -> Renewed  `X-Host-Token: <host JWT>`; may be asked again with it
POST /v1/hosts/{id}/samples           Samples   -> 204  `X-Host-Token: <host JWT>`; the same sample may come twice
```

Every command that changes a sandbox carries its generation; an agent refuses a generation older than the one it
holds with 409 `stale_generation`. The same command twice with the same generation gives the same answer.
"""

import msgspec

from wrenn_server.model.sandbox import Activity, Reason, State


class Network(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a sandbox may reach. The defaults: the public internet. Private ranges, the host and other sandboxes are
    closed whatever stands here."""

    internet: bool = True
    """False: nothing but `allow_out`."""
    allow_out: list[str] = []
    """IPv4 addresses, CIDRs, `host.name`, `*.host.name`; wins over `deny_out`."""
    deny_out: list[str] = []
    """IPv4 addresses and CIDRs."""
    dns_servers: list[str] = []
    """IPv4 addresses that the guest's questions go to; none: the host's own choice."""


class KeepAlive(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What puts off the end of a sandbox's time to live."""

    by: list[Activity]
    idle_sec: float
    """It ends so long after the last of that, if this is later than what was set."""


class Start(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    template: str
    """Name of the root file system: `<images>/<template>.ext4` on the host."""
    snapshot: str | None = None
    """Id of a snapshot on this host to start from, instead of the freshly booted template."""
    template_id: str
    team_id: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    access_token: str
    """What envd asks for in `X-Access-Token` from now on."""
    envs: dict[str, str] = {}
    ttl_sec: float | None = None
    """Seconds from now until the agent ends the sandbox by itself; None: never."""
    on_timeout: str = "kill"
    """`kill` or `pause`."""
    pause_memory: bool = True
    """What a pause at the end of the time to live keeps. False: the disk alone, so that the resume boots."""
    keep_alive: KeepAlive | None = None
    network: Network = msgspec.field(default_factory=Network)
    """Forks, and all later generations, inherit it."""


class Pause(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    memory: bool = True
    """False: the disk alone is kept, its file systems written out; programs end, and the resume boots."""


class Resume(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    """The new generation: one more than the paused one."""
    access_token: str
    memory: bool = True
    """False: boot from the disk even if memory was saved."""
    ttl_sec: float | None = None
    on_timeout: str = "kill"
    pause_memory: bool = True
    keep_alive: KeepAlive | None = None
    network: Network | None = None
    """In place of all that was, in force before the guest runs; None: as it was."""
    stored: int | None = None
    """Generation to fetch from the object store when this host has nothing of the sandbox."""
    snapshot: str | None = None
    """Id of a snapshot that was taken of this very sandbox, to go back to; None: go on from the pause."""


class Store(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    """That it was paused at."""


class Fetch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    """That it was paused at."""


class ForkTarget(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    id: str
    generation: int
    access_token: str
    ttl_sec: float | None = None
    on_timeout: str = "kill"
    pause_memory: bool = True
    keep_alive: KeepAlive | None = None


class Fork(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    """The running source's own, unchanged by the fork."""
    targets: list[ForkTarget]


class ForkResult(msgspec.Struct, kw_only=True):
    id: str
    report: "SandboxReport | None" = None
    error_code: str | None = None
    error_message: str | None = None


class ForkReport(msgspec.Struct):
    results: list[ForkResult]


class Timeout(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    ttl_sec: float | None
    """0: now."""
    extend: bool = False
    """Only lengthen: an end that is later already stays. Decided by the host, so that of two at once the longer wins."""
    on_timeout: str = "kill"
    pause_memory: bool = True
    keep_alive: KeepAlive | None = None


class Rewire(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    network: Network
    """In place of all that was."""


class Snapshot(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    generation: int
    """The running source's own, unchanged by the snapshot."""
    id: str
    memory: bool = True
    """False: the disk alone, its file systems written out; sandboxes made of it boot."""


class SnapshotReport(msgspec.Struct, kw_only=True):
    id: str
    memory: bool
    size_bytes: int
    """That it takes on the host's disk."""
    message: str | None = None
    """For a person: the guest did not write out its file systems, and the disk is what a power cut would leave."""


class Prepare(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    vcpus: int
    memory_mb: int
    disk_mb: int


class TemplateReport(msgspec.Struct, kw_only=True):
    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    boot_seconds: float
    """0.0 when the memory snapshot existed already."""


class Drain(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    mode: str
    """`pause` or `kill`."""


class SandboxReport(msgspec.Struct, kw_only=True):
    """What the agent knows of one sandbox."""

    id: str
    generation: int
    state: State
    reason: Reason | None = None
    message: str | None = None
    """For a person: what happened, beside `reason`."""
    console: str | None = None
    """Last lines of the guest's console (at most 4 KiB, control characters removed) when it ended badly."""
    vcpus: int
    memory_mb: int
    disk_mb: int
    envd_version: str = ""
    saved_memory: bool | None = None
    """Of a paused one: whether its memory was kept."""
    saved_generation: int | None = None
    """Of a paused one: which it was paused at."""
    stored: str | None = None
    """Of a paused one: the machine (`HostSpecs.machine`) under which all of it is in the object store; None: it is not."""
    expires_at: float | None = None
    """Unix seconds by the host's clock."""
    put_off: bool = False
    """That is later than what was set, because the sandbox was used."""
    renewed: list[str] = []
    """Of `model.sandbox.RENEWED`, what its guest said at its last start that it had."""


class SandboxList(msgspec.Struct):
    sandboxes: list[SandboxReport]


class AgentHealth(msgspec.Struct, kw_only=True):
    version: str
    vmm: str
    """`firecracker` or `qemu`."""
    vmm_version: str
    accelerated: bool
    """True when guests run on KVM, false under software emulation."""
    sandboxes: int


class HostSpecs(msgspec.Struct, kw_only=True):
    arch: str
    cpus: int
    memory_mb: int
    disk_mb: int
    """Free for sandboxes, on the file system of the sandboxes' directory."""
    vmm: str
    vmm_version: str
    accelerated: bool
    version: str
    """Of the agent."""
    machine: str = ""
    """What guest memory depends on: it goes on only on hosts that say the same."""
    store: str = ""
    """Identity of the object store; hosts with the same one see the same objects. Empty: there is none."""


class Register(msgspec.Struct, kw_only=True):
    token: str
    address: str | None
    """HOST:PORT under which the control plane reaches the agent; None: the control plane's CP_HOST_AGENT_ADDR."""
    csr_pem: str
    specs: HostSpecs


class Registered(msgspec.Struct, kw_only=True):
    host_id: str
    token: str
    """Host JWT, to be renewed before it ends."""
    cert_pem: str
    ca_cert_pem: str
    control_plane_key_pem: str
    """Ed25519 public key that signs the control plane's calls."""


class Renew(msgspec.Struct, kw_only=True):
    csr_pem: str
    installation: str = ""
    """As in heartbeats."""


class Renewed(msgspec.Struct, kw_only=True):
    token: str
    """The host's next JWT. The one before stays good until this one is used for the first time."""
    cert_pem: str


class Heartbeat(msgspec.Struct, kw_only=True):
    specs: HostSpecs
    address: str | None
    sequence: int
    """Grows with every heartbeat of one agent process; the control plane ignores older ones that arrive late."""
    started_at: float
    """Unix seconds when the agent process started; orders sequences over restarts."""
    sandboxes: list[SandboxReport]
    templates: list[str]
    """Names of the templates that this host can start."""
    snapshots: dict[str, str] = {}
    """Ids of the named snapshots that are in the object store, and their machines."""
    installation: str = ""
    """Of the data directory on its machine: two that have the same credentials differ in it."""


SAMPLES_MAX = 10_000
"""In one batch."""
SAMPLE_SECONDS_MAX = 600.0
"""That one sample counts for, after a guest has not answered for long."""


class Sample(msgspec.Struct, kw_only=True):
    """What one sandbox used at one moment, as its guest tells; bounded by the agent."""

    sandbox_id: str
    at: float
    """Unix seconds by the host's clock; with `sandbox_id` it names the sample."""
    cpu_count: int
    cpu_used_pct: float
    """Of all its processors together, 0 to 100."""
    mem_used: int
    mem_total: int
    mem_cache: int
    disk_used: int
    disk_total: int
    """All five in bytes."""
    seconds: float = 0.0
    """That it stands for: since the sandbox's sample before, or since it runs here; at most `SAMPLE_SECONDS_MAX`."""
    egress_bytes: int = 0
    """Sent out of its network namespace in that time."""


class Samples(msgspec.Struct, kw_only=True):
    samples: list[Sample]
    """At most `SAMPLES_MAX`, in the order in which they were taken."""
    epoch: float = 0.0
    """Names the agent process whose numbers these are: Unix seconds of its start."""
    first: int = 0
    """Number of the first one, from 1 on; the others follow. Each number is counted once. 0: they have no numbers, and are
    not counted."""
