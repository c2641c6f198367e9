"""`/v1/capsules`: their life."""

from typing import Any

from litestar import Request, delete, get, post
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.api.idempotency import IdempotencyKey
from wrenn_server.controlplane.capsules import schema, shape
from wrenn_server.controlplane.schema import USES
from wrenn_server.controlplane.services import idempotency, pauses, samples, sandboxes, timeouts
from wrenn_server.controlplane.services.idempotency import Claim, Effect
from wrenn_server.controlplane.services.sandboxes import Wanted
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.model.sandbox import Activity, Shape

BASE = "minimal"
TEMPLATES = {"minimal-ubuntu": BASE}
"""Names that the published platform has for what is called otherwise here."""
RESERVED = frozenset({"kernel_version", "vmm_version", "agent_version", shape.ENVD_VERSION})
"""Labels that are the platform's."""
TIMEOUT_LEAST = 60
_ALL = 10_000


@post("/", operation_id="createSandbox", status_code=202)
async def create(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    idempotency_key: IdempotencyKey = None,
    data: JSONBody[schema.NewCapsule | None] = None,
) -> schema.Capsule:
    """It runs already when this answers."""
    new = wanted(caller, data or schema.NewCapsule())

    async def carry_out(claim: Claim | None) -> schema.Capsule:
        return shape.capsule(await sandboxes.create(cp, new, claim))

    async def recover(sandbox_id: str) -> schema.Capsule | Effect:
        made = await sandboxes.made(cp, sandbox_id)
        return made if isinstance(made, Effect) else shape.capsule(made)

    asked = idempotency.request(caller.team_id, idempotency_key, "POST /v1/capsules", await request.body())
    return await idempotency.once(cp, asked, idempotency.Work(schema.Capsule, carry_out, recover))


@get("/")
async def listing(cp: Cp, caller: Who) -> list[schema.Capsule]:
    """All that have not ended."""
    return [shape.capsule(row) for row in await sandboxes.page(cp, caller.team_id, limit=_ALL)]


@get("/{sandbox_id:str}")
async def get_one(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.Capsule:
    """Also one that has ended."""
    row = await sandboxes.get(cp, caller.team_id, sandbox_id)
    newest = await samples.newest(cp, caller.team_id, [row.id])
    return shape.capsule(row, newest[0] if newest else None)


@delete("/{sandbox_id:str}", operation_id="killSandbox", status_code=202)
async def kill(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.Capsule:
    await sandboxes.kill(cp, caller.team_id, sandbox_id)
    return shape.capsule(await sandboxes.get(cp, caller.team_id, sandbox_id))


@post("/{sandbox_id:str}/pause", operation_id="pauseSandbox", status_code=202)
async def pause(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.Capsule:
    return shape.capsule(await pauses.pause(cp, caller.team_id, sandbox_id))


@post("/{sandbox_id:str}/resume", operation_id="resumeSandbox", status_code=202)
async def resume(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.Capsule:
    return shape.capsule(await pauses.resume(cp, caller.team_id, sandbox_id, None))


@post("/{sandbox_id:str}/ping", operation_id="pingCapsule", status_code=204)
async def ping(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> None:
    """It counts as use: the timeout begins anew."""
    row = await sandboxes.get(cp, caller.team_id, sandbox_id)
    await timeouts.extend(cp, caller.team_id, row.id, row.timeout_sec)


def wanted(caller: Caller, given: schema.NewCapsule) -> Wanted:
    """:raises InvalidRequest: a label is the platform's"""
    if taken := RESERVED.intersection(given.metadata):
        raise InvalidRequest(f"metadata: {', '.join(sorted(taken))}: the platform gives these itself")
    name = given.template or BASE
    timeout = given.timeout_sec and max(given.timeout_sec, TIMEOUT_LEAST)
    return Wanted(
        team_id=caller.team_id,
        key_id=caller.key_id,
        template=TEMPLATES.get(name, name),
        vcpus=given.vcpus,
        memory_mb=given.memory_mb,
        disk_mb=Shape.DISK_DEFAULT,
        timeout_sec=timeout,
        on_timeout="pause",
        activity=[*USES, Activity.TERMINAL],
        metadata=given.metadata,
        envs={},
    )


ROUTES = [create, listing, get_one, kill, pause, resume, ping]
