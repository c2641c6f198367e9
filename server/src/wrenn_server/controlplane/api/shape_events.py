"""Rows of what happened as the API's structs. Pure."""

from typing import Literal, cast

from msgspec import UNSET

from wrenn_server.controlplane import schema_events
from wrenn_server.controlplane.api.shape import or_unset
from wrenn_server.controlplane.services.audit import Verified
from wrenn_server.db.audit import AuditRow
from wrenn_server.db.events import EventRow, SandboxThen
from wrenn_server.model.sandbox import State

_PUBLISHED_TYPES = {"sandbox": "capsule", "snapshot": "template.snapshot", "host": "host"}
CAPSULE_STATUS: dict[State, schema_events.CapsuleStatus] = {
    State.STARTING: "starting",
    State.RUNNING: "running",
    State.PAUSING: "pausing",
    State.PAUSED: "paused",
    State.RESUMING: "resuming",
    State.LOST: "missing",
    State.FAILED: "error",
    State.KILLING: "stopping",
    State.KILLED: "stopped",
}


def event(row: EventRow) -> schema_events.Event:
    noun, _, verb = row.type.partition(".")
    return schema_events.Event(
        id=row.id,
        type=cast("schema_events.EventType", row.type),
        event=f"{_PUBLISHED_TYPES[noun]}.{verb}",
        outcome=or_unset(row.outcome),
        resource=schema_events.EventResource(
            cast('Literal["sandbox", "snapshot", "host"]', row.resource_type), row.resource_id
        ),
        actor=schema_events.EventActor(row.actor_type, or_unset(row.actor_id), or_unset(row.actor_name)),
        metadata=row.metadata,
        error=or_unset(row.error),
        sandbox=UNSET if row.sandbox is None else _sandbox_then(row.resource_id, row.sandbox),
        timestamp=row.created_at,
    )


def _sandbox_then(id: str, then: SandboxThen) -> schema_events.EventSandbox:
    return schema_events.EventSandbox(
        id=id,
        status=CAPSULE_STATUS[then.state],
        state=then.state,
        template=then.template,
        vcpus=then.vcpus,
        memory_mb=then.memory_mb,
        disk_size_mb=then.disk_mb,
        timeout_sec=then.timeout_sec,
        generation=then.generation,
        created_at=then.created_at,
        started_at=or_unset(then.started_at),
        last_active_at=or_unset(then.last_active_at),
        last_updated=then.updated_at,
        metadata=then.metadata,
    )


def audit_log(row: AuditRow) -> schema_events.AuditLog:
    return schema_events.AuditLog(
        chain=row.chain,
        number=row.number,
        id=row.id,
        at=row.at,
        actor_type=row.actor_type,
        actor_id=row.actor_id,
        actor_name=row.actor_name,
        peer=row.peer,
        method=row.method,
        operation=row.operation,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        status=row.status,
        code=row.code,
        request_id=row.request_id,
        digest=row.digest.hex(),
    )


def verification(found: Verified) -> schema_events.AuditVerification:
    return schema_events.AuditVerification(
        whole=[schema_events.AuditHead(h.chain, h.number, h.digest.hex()) for h in found.heads],
        broken=[schema_events.AuditBroken(b.chain, b.number, b.what) for b in found.broken],
    )
