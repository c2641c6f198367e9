"""What the native API tells of what happened, and to whom it is told. As `schema.py`, whose rules hold here, too."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from wrenn_server.controlplane.schema import Time
from wrenn_server.model.sandbox import State

EventType = Literal[
    "sandbox.create",
    "sandbox.pause",
    "sandbox.resume",
    "sandbox.destroy",
    "sandbox.state.changed",
    "snapshot.create",
    "snapshot.delete",
    "host.up",
    "host.down",
]
CapsuleStatus = Literal[
    "starting", "running", "pausing", "paused", "resuming", "missing", "error", "stopping", "stopped"
]


class EventResource(Struct):
    type: Literal["sandbox", "snapshot", "host"]
    id: str


class EventActor(Struct, omit_defaults=True):
    type: Annotated[
        Literal["user", "api_key", "system"], Meta(description="`system`: the platform by itself")
    ]
    id: str | UnsetType = UNSET
    name: Annotated[
        str | UnsetType, Meta(description="A user's e-mail address, a key's name, as it was then")
    ] = UNSET


class EventSandbox(Struct, kw_only=True):
    """What it was when the event happened."""

    id: str
    status: Annotated[CapsuleStatus, Meta(description="`state` in the words of the `wrenn` 0.3 SDK")]
    state: State
    template: str
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    timeout_sec: int
    generation: int
    created_at: Time
    started_at: Time | UnsetType = UNSET
    last_active_at: Time | UnsetType = UNSET
    last_updated: Time
    metadata: dict[str, str]


class Event(Struct, kw_only=True):
    id: str
    type: EventType
    event: Annotated[
        str,
        Meta(description="`type` in the words of the `wrenn` 0.3 SDK, and the name of the stream's frame"),
    ]
    outcome: Annotated[
        Literal["success", "error"] | UnsetType,
        Meta(description="Of what somebody did; not of what changed by itself"),
    ] = UNSET
    resource: EventResource
    actor: EventActor
    metadata: Annotated[
        dict[str, str],
        Meta(description="`reason`; `from` and `to` of a change of state; `sandbox_id` of a snapshot"),
    ]
    error: Annotated[str | UnsetType, Meta(description="What went wrong, when `outcome` is `error`")] = UNSET
    sandbox: EventSandbox | UnsetType = UNSET
    timestamp: Time


class AuditLog(Struct, kw_only=True):
    chain: Annotated[str, Meta(description="The team's id, or `platform`")]
    number: Annotated[int, Meta(description="In its chain, from 1, without gaps")]
    id: str
    at: Time
    actor_type: Literal["user", "api_key", "host", "anonymous"]
    actor_id: str | None
    actor_name: Annotated[
        str | None, Meta(description="A user's e-mail address, a key's name, as it was then")
    ]
    peer: Annotated[str, Meta(description="Address that the request came from")]
    method: str
    operation: str
    resource_type: str | None
    resource_id: str | None
    status: Annotated[
        int, Meta(description="HTTP status of the answer; from 400 on it was refused or failed")
    ]
    code: Annotated[str | None, Meta(description="Of the problem")]
    request_id: str
    digest: Annotated[str, Meta(description="SHA-256 of the one before it and of this one, in hexadecimal")]


class AuditHead(Struct):
    chain: str
    number: int
    digest: str


class AuditBroken(Struct):
    chain: str
    number: Annotated[int, Meta(description="The first row that is not as it was written")]
    what: str


class AuditVerification(Struct):
    whole: list[AuditHead]
    broken: list[AuditBroken]
