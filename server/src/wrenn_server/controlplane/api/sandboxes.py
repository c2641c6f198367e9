"""`/v1/sandboxes`: their life."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from litestar import Request, Response, delete, get, post, put
from litestar.params import FromPath, JSONBody, QueryParameter

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import auth, cursor, http, shape
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.api.idempotency import IdempotencyKey
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import (
    admission,
    forks,
    idempotency,
    network,
    pauses,
    rollbacks,
    sandboxes,
    timeouts,
)
from wrenn_server.controlplane.services.admission import WhenFull
from wrenn_server.controlplane.services.idempotency import Claim, Effect
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.model.errors import Forbidden, InvalidRequest
from wrenn_server.model.sandbox import State

T = TypeVar("T")


@post("/v1/sandboxes", operation_id="createSandbox", tags=["sandboxes"])
async def create(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    idempotency_key: IdempotencyKey = None,
    data: JSONBody[schema.SandboxCreate | None] = None,
) -> schema.Sandbox:
    """Start a sandbox. Answers when it is usable. Without a body: all defaults."""
    given = data or schema.SandboxCreate()
    wanted = sandboxes.Wanted(
        team_id=caller.team_id,
        template=given.template,
        vcpus=given.vcpus,
        memory_mb=given.memory_mb,
        disk_mb=given.disk_mb,
        timeout_sec=given.timeout_sec,
        on_timeout=given.on_timeout,
        pause_memory=given.pause_memory,
        auto_resume=given.auto_resume,
        activity=list(dict.fromkeys(given.activity)),
        metadata=given.metadata,
        envs=given.envs,
        network=shape.wanted_network(given.network),
        private=given.private,
        mask_host=given.mask_host,
        key_id=caller.key_id,
        host_tags=given.host_tags,
        availability_zone=given.availability_zone,
    )

    async def carry_out(claim: Claim | None) -> schema.Sandbox:
        row = await admission.admitted(
            cp,
            caller.team_id,
            _when_full(caller, given),
            lambda ticket: sandboxes.create(cp, wanted, claim, ticket),
            claim=claim,
        )
        return shape.sandbox(row, secrets=True)

    async def recover(sandbox_id: str) -> schema.Sandbox | Effect:
        made = await sandboxes.made(cp, sandbox_id)
        return made if isinstance(made, Effect) else shape.sandbox(made, secrets=True)

    asked = idempotency.request(caller.team_id, idempotency_key, "POST /v1/sandboxes", await request.body())
    once = idempotency.once(cp, asked, idempotency.Work(schema.Sandbox, carry_out, recover))
    return await (http.while_there(request, once) if given.wait_sec else once)


@get("/v1/sandboxes", operation_id="listSandboxes", tags=["sandboxes"])
async def listing(
    cp: Cp,
    caller: Who,
    status: Annotated[
        str | None,
        QueryParameter(description="States, separated by commas. Without: all but `failed` and `killed`"),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        QueryParameter(description="`key=value`; may be given several times, all must match"),
    ] = None,
    template: Annotated[
        str | None,
        QueryParameter(description="Name or id of what they were created from, also of a snapshot"),
    ] = None,
    since: Annotated[
        datetime | None, QueryParameter(description="Created at this time or later; RFC 3339")
    ] = None,
    order: Annotated[
        Literal["desc", "asc"], QueryParameter(description="By time of creation; `desc`: newest first")
    ] = "desc",
    limit: cursor.Limit = 100,
    after: cursor.Parameter = None,
) -> Response[list[schema.Sandbox]]:
    """The team's sandboxes. `X-Next-Cursor` is there when there are more; it is for the same `order`."""
    if since is not None and since.tzinfo is None:
        raise InvalidRequest("since has no offset from UTC, such as Z")
    rows = await sandboxes.page(
        cp,
        caller.team_id,
        states=None if status is None else _states(status),
        metadata=_pairs(metadata or []),
        template=template,
        since=since,
        ascending=order == "asc",
        after=None if after is None else cursor.read_at(after),
        limit=limit + 1,
    )
    headers = cursor.header_at(rows[limit - 1].created_at, rows[limit - 1].id) if len(rows) > limit else {}
    return Response([shape.sandbox(row, secrets=False) for row in rows[:limit]], headers=headers)


@get("/v1/sandboxes/{sandbox_id:str}", operation_id="getSandbox", tags=["sandboxes"])
async def get_one(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.Sandbox:
    """One sandbox, also when it has ended."""
    row = await sandboxes.get(cp, caller.team_id, sandbox_id)
    return shape.sandbox(row, secrets="write" in caller.scopes)


@delete("/v1/sandboxes/{sandbox_id:str}", operation_id="killSandbox", tags=["sandboxes"])
async def kill(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> None:
    """End a sandbox, whatever its state. Memory and disk are gone."""
    await sandboxes.kill(cp, caller.team_id, sandbox_id)


@post(
    "/v1/sandboxes/{sandbox_id:str}/pause", operation_id="pauseSandbox", tags=["sandboxes"], status_code=200
)
async def pause(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.SandboxPause | None] = None
) -> schema.Sandbox:
    """Save memory and disk, or the disk alone, and stop. Answers when all is saved."""
    wanted = data or schema.SandboxPause()
    row = await pauses.pause(cp, caller.team_id, sandbox_id, memory=wanted.memory)
    return shape.sandbox(row, secrets=False)


@post(
    "/v1/sandboxes/{sandbox_id:str}/resume", operation_id="resumeSandbox", tags=["sandboxes"], status_code=200
)
async def resume(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    sandbox_id: FromPath[str],
    data: JSONBody[schema.SandboxResume | None] = None,
) -> schema.Sandbox:
    """Go on where it was paused."""
    wanted = data or schema.SandboxResume()
    row = await _admitted(
        cp,
        caller,
        request,
        wanted,
        lambda ticket: pauses.resume(
            cp, caller.team_id, sandbox_id, wanted.timeout_sec, memory=wanted.memory, ticket=ticket
        ),
    )
    return shape.sandbox(row, secrets=True)


@post(
    "/v1/sandboxes/{sandbox_id:str}/restore",
    operation_id="restoreSandbox",
    tags=["sandboxes"],
    status_code=200,
)
async def restore(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    sandbox_id: FromPath[str],
    data: JSONBody[schema.SandboxRestore | None] = None,
) -> schema.Sandbox:
    """Have a lost sandbox go on from its last pause that is in the object store. What it did since is gone for good, also
    when its host comes back."""
    wanted = data or schema.SandboxRestore()
    row = await _admitted(
        cp,
        caller,
        request,
        wanted,
        lambda ticket: pauses.restore(cp, caller.team_id, sandbox_id, wanted.timeout_sec, ticket=ticket),
    )
    return shape.sandbox(row, secrets=True)


@post(
    "/v1/sandboxes/{sandbox_id:str}/rollback",
    operation_id="rollbackSandbox",
    tags=["sandboxes"],
    status_code=200,
)
async def rollback(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.SandboxRollback]
) -> schema.Sandbox:
    """Go back to a snapshot that was taken of this sandbox: memory and disk are those of then, id and URL stay. A paused
    one resumes from it. What was done since is gone when this answers; when it fails, nothing is lost."""
    row = await rollbacks.rollback(cp, caller.team_id, sandbox_id, data.snapshot)
    return shape.sandbox(row, secrets=True)


@post(
    "/v1/sandboxes/{sandbox_id:str}/fork",
    operation_id="forkSandbox",
    tags=["sandboxes"],
    opt=auth.needs("write", beyond=True),
)
async def fork(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    sandbox_id: FromPath[str],
    data: JSONBody[schema.SandboxFork | None] = None,
) -> list[schema.Forked]:
    """Copies of a running sandbox, memory and disk; it keeps running. Each copy succeeds or fails by itself."""
    wanted = data or schema.SandboxFork()
    results = await _admitted(
        cp,
        caller,
        request,
        wanted,
        lambda ticket: forks.fork(
            cp,
            caller.team_id,
            sandbox_id,
            count=wanted.count,
            timeout_sec=wanted.timeout_sec,
            metadata=wanted.metadata,
            key_id=caller.key_id,
            ticket=ticket,
        ),
        keep=sandbox_id,
    )
    return [shape.fork_result(result) for result in results]


@post(
    "/v1/sandboxes/{sandbox_id:str}/timeout",
    operation_id="setSandboxTimeout",
    tags=["sandboxes"],
    status_code=200,
)
async def timeout(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.SandboxTimeout]
) -> schema.Sandbox:
    """End `timeout_sec` from now; 0: never."""
    row = await timeouts.set_timeout(cp, caller.team_id, sandbox_id, data.timeout_sec)
    return shape.sandbox(row, secrets=False)


@put(
    "/v1/sandboxes/{sandbox_id:str}/network",
    operation_id="setSandboxNetwork",
    tags=["sandboxes"],
)
async def set_network(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Network]
) -> schema.Sandbox:
    """Change what it may reach, in place of all that was. In force when this answers, for open connections too."""
    row = await network.update(cp, caller.team_id, sandbox_id, shape.wanted_network(data))
    return shape.sandbox(row, secrets=False)


async def _admitted(
    cp: ControlPlane,
    caller: Caller,
    request: Request[Any, Any, Any],
    asked: schema.WhenFull,
    attempt: Callable[[int | None], Awaitable[T]],
    keep: str | None = None,
) -> T:
    work = admission.admitted(cp, caller.team_id, _when_full(caller, asked), attempt, keep=keep)
    return await (http.while_there(request, work) if asked.wait_sec else work)


def _when_full(caller: Caller, asked: schema.WhenFull) -> WhenFull:
    """:raises Forbidden: it would touch more than the key reaches"""
    if asked.make_room and caller.sandbox_id is not None:
        raise Forbidden(
            "make_room pauses other sandboxes, and this API key reaches one alone", code="scope_required"
        )
    return WhenFull(asked.wait_sec, asked.make_room)


def _states(text: str) -> set[State]:
    try:
        return {State(word) for word in text.split(",")}
    except ValueError as error:
        raise InvalidRequest(f"status {text[:100]!r}: {error}", hint="use " + ", ".join(State)) from error


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or "\0" in text:
            raise InvalidRequest(f"metadata {text[:100]!r}: expected key=value")
        pairs[key] = value
    return pairs


ROUTES = [create, listing, get_one, kill, pause, resume, restore, rollback, fork, timeout, set_network]
