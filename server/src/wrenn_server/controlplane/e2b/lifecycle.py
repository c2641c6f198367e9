"""What happens to a sandbox while it lives: connects, pauses, timeouts, forks."""

from litestar import Response, post
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane.api import auth
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.e2b import read, schema, shape
from wrenn_server.controlplane.e2b.find import of_living
from wrenn_server.controlplane.services import forks, guest, pauses, timeouts, wakes
from wrenn_server.model.errors import InvalidRequest

CONNECT_TIMEOUT, RESUME_TIMEOUT, FORK_TIMEOUT, REFRESH_TIMEOUT = 300, 15, 15, 15
"""Seconds, of requests without one."""
FORKS_MAX = 20


@post(["/v2/sandboxes/{sandbox_id:str}/connect", "/sandboxes/{sandbox_id:str}/connect"])
async def connect(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Connect | None] = None
) -> Response[schema.Sandbox]:
    """200 when it ran already: it lives on for at least the timeout; 201 when it was resumed for this."""
    given = data or schema.Connect()
    row, resumed = await wakes.connect(
        cp,
        caller.team_id,
        read.sandbox_id(sandbox_id),
        timeout_sec=read.timeout(given.timeout, CONNECT_TIMEOUT),
        memory=given.memory is not False,
    )
    return Response(shape.sandbox(row, cp.config.proxy_domain), status_code=201 if resumed else 200)


@post("/sandboxes/{sandbox_id:str}/resume")
async def resume(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Resume | None] = None
) -> schema.Sandbox:
    given = data or schema.Resume()
    id = read.sandbox_id(sandbox_id)
    timeout = read.timeout(given.timeout, RESUME_TIMEOUT)
    async with of_living(cp, caller, id):
        row = await pauses.resume(cp, caller.team_id, id, timeout, memory=given.memory is not False)
    return shape.sandbox(row, cp.config.proxy_domain)


@post("/sandboxes/{sandbox_id:str}/pause", status_code=204)
async def pause(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Pause | None] = None
) -> None:
    """409: it does not run; the SDKs take that for paused already."""
    given = data or schema.Pause()
    id = read.sandbox_id(sandbox_id)
    async with of_living(cp, caller, id):
        if given.require_healthy_guest:
            await guest.demand_health(cp, await guest.running(cp, caller.team_id, id))
        await pauses.pause(cp, caller.team_id, id, memory=given.memory is not False)


@post("/sandboxes/{sandbox_id:str}/timeout", status_code=204)
async def set_timeout(cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Timeout]) -> None:
    """0: its time is over now."""
    id = read.sandbox_id(sandbox_id)
    async with of_living(cp, caller, id):
        if data.timeout == 0:
            await timeouts.expire(cp, caller.team_id, id)
        else:
            await timeouts.set_timeout(cp, caller.team_id, id, read.timeout(data.timeout, 0))


@post("/sandboxes/{sandbox_id:str}/refreshes", status_code=204)
async def refresh(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Refresh | None] = None
) -> None:
    """It lives on for at least so long."""
    id = read.sandbox_id(sandbox_id)
    timeout = read.timeout(data.duration if data else None, REFRESH_TIMEOUT)
    async with of_living(cp, caller, id):
        await timeouts.extend(cp, caller.team_id, id, timeout)


@post("/sandboxes/{sandbox_id:str}/fork", opt=auth.needs("write", beyond=True))
async def fork(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.Fork | None] = None
) -> list[schema.ForkResult]:
    given = data or schema.Fork()
    id = read.sandbox_id(sandbox_id)
    count = 1 if given.count is None else given.count
    if not 1 <= count <= FORKS_MAX:
        raise InvalidRequest(f"count {count}: expected 1 to {FORKS_MAX}")
    timeout = read.timeout(given.timeout, FORK_TIMEOUT)
    async with of_living(cp, caller, id):
        results = await forks.fork(
            cp,
            caller.team_id,
            id,
            count=count,
            timeout_sec=timeout,
            metadata=None,
            key_id=caller.key_id,
        )
    return [shape.fork_result(result, cp.config.proxy_domain) for result in results]


ROUTES = [connect, resume, pause, set_timeout, refresh, fork]
