"""Sandboxes: made, listed, looked at, ended."""

from typing import Annotated, Any, Literal

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.api.idempotency import IdempotencyKey
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.e2b import network, read, schema, shape
from wrenn_server.controlplane.e2b.find import has_ended, living
from wrenn_server.controlplane.services import idempotency, sandboxes
from wrenn_server.controlplane.services.idempotency import Claim, Effect
from wrenn_server.controlplane.services.sandboxes import Wanted
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.model.sandbox import Shape

NEXT_PAGE = "X-Next-Token"
TOTAL_RUNNING = "X-Total-Running"
TIMEOUT_V1, TIMEOUT_V2 = 15, 300
Limit = Annotated[int, QueryParameter(ge=1, le=100)]
NextToken = Annotated[str | None, QueryParameter(name="nextToken")]


@post("/v2/sandboxes")
async def create(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    data: JSONBody[schema.NewSandbox],
    idempotency_key: IdempotencyKey = None,
) -> schema.Sandbox:
    asked = idempotency.request(caller.team_id, idempotency_key, "POST /v2/sandboxes", await request.body())
    return await _create(cp, asked, wanted(caller, data, TIMEOUT_V2))


@post("/sandboxes")
async def create_v1(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    data: JSONBody[schema.NewSandbox],
    idempotency_key: IdempotencyKey = None,
) -> schema.Sandbox:
    public = data.network is None or data.network.allow_public_traffic is not False
    if data.secure is False and not public:
        raise InvalidRequest("network.allowPublicTraffic is false: this needs secure")
    asked = idempotency.request(caller.team_id, idempotency_key, "POST /sandboxes", await request.body())
    return await _create(cp, asked, wanted(caller, data, TIMEOUT_V1))


@get("/v2/sandboxes")
async def listing(
    cp: Cp,
    caller: Who,
    metadata: FromQuery[str | None] = None,
    states: Annotated[list[str] | None, QueryParameter(name="state")] = None,
    order: FromQuery[Literal["asc", "desc"]] = "desc",
    started_after: Annotated[str | None, QueryParameter(name="startedAfter")] = None,
    template: FromQuery[str | None] = None,
    limit: Limit = 100,
    next_token: NextToken = None,
) -> Response[list[schema.ListedSandbox]]:
    ascending = order == "asc"
    rows = await sandboxes.page(
        cp,
        caller.team_id,
        states=read.states(states),
        metadata=read.metadata(metadata),
        template=template,
        since=read.moment(started_after, "startedAfter"),
        ascending=ascending,
        after=read.read_cursor(next_token, ascending=ascending),
        limit=limit + 1,
    )
    running = await sandboxes.count(cp, caller.team_id, read.STATES["running"])
    headers = {TOTAL_RUNNING: str(running)}
    if len(rows) > limit:
        last = rows[limit - 1]
        headers[NEXT_PAGE] = read.write_cursor(last.created_at, last.id, ascending=ascending)
    return Response([shape.listed(row) for row in rows[:limit] if not has_ended(row)], headers=headers)


@get("/sandboxes")
async def listing_v1(
    cp: Cp, caller: Who, metadata: FromQuery[str | None] = None
) -> list[schema.ListedSandbox]:
    """Those that run, all at once."""
    rows = await sandboxes.page(
        cp,
        caller.team_id,
        states=read.STATES["running"],
        metadata=read.metadata(metadata),
        limit=_ALL,
    )
    return [shape.listed(row) for row in rows if not has_ended(row)]


@get("/sandboxes/{sandbox_id:str}")
async def get_one(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.SandboxDetail:
    row = await living(cp, caller, read.sandbox_id(sandbox_id))
    return shape.detail(row, cp.config.proxy_domain, secrets="write" in caller.scopes)


@delete("/sandboxes/{sandbox_id:str}")
async def kill(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> None:
    id = read.sandbox_id(sandbox_id)
    await living(cp, caller, id)
    await sandboxes.kill(cp, caller.team_id, id)


def wanted(caller: Caller, given: schema.NewSandbox, timeout: int) -> Wanted:
    """
    :param timeout: seconds, when none is given
    :raises InvalidRequest: :raises NotSupported: something that it asks for does not exist here
    """
    reach = given.network or schema.NetworkConfig()
    for field, value in (("mcp", given.mcp), ("iam", given.iam), ("volumeMounts", given.volume_mounts)):
        network.refuse(field, value)
    network.refuse("network.httpsPorts", reach.https_ports)
    return Wanted(
        team_id=caller.team_id,
        template=given.template_id,
        vcpus=Shape.VCPUS_DEFAULT,
        memory_mb=Shape.MEMORY_DEFAULT,
        disk_mb=Shape.DISK_DEFAULT,
        timeout_sec=read.timeout(given.timeout, timeout),
        on_timeout="pause" if given.auto_pause else "kill",
        metadata=given.metadata or {},
        envs=given.env_vars or {},
        pause_memory=given.auto_pause_memory is not False,
        auto_resume=given.auto_resume is not None and given.auto_resume.enabled,
        network=network.egress(reach, given.allow_internet_access),
        private=reach.allow_public_traffic is False,
        mask_host=reach.mask_request_host or None,
        key_id=caller.key_id,
    )


async def _create(cp: ControlPlane, asked: idempotency.Request | None, wanted: Wanted) -> schema.Sandbox:
    domain = cp.config.proxy_domain

    async def carry_out(claim: Claim | None) -> schema.Sandbox:
        return shape.sandbox(await sandboxes.create(cp, wanted, claim), domain)

    async def recover(sandbox_id: str) -> schema.Sandbox | Effect:
        made = await sandboxes.made(cp, sandbox_id)
        return made if isinstance(made, Effect) else shape.sandbox(made, domain)

    return await idempotency.once(cp, asked, idempotency.Work(schema.Sandbox, carry_out, recover))


_ALL = 10_000

ROUTES = [create, create_v1, listing, listing_v1, get_one, kill]
