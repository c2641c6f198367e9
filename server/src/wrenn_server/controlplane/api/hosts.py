"""`/v1/hosts`: administration by people, registration and heartbeats by agents."""

from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import shape
from wrenn_server.controlplane.api.auth import Agent, Cp, From, Who
from wrenn_server.controlplane.services import attempts, drains, hosts
from wrenn_server.wire import agent


@post("/v1/hosts", operation_id="createHost", tags=["hosts"])
async def create(cp: Cp, caller: Who, data: JSONBody[schema.HostCreate | None] = None) -> schema.HostCreated:
    """Make a record for a host. Its agent registers with the token: valid for one hour, usable once."""
    created = await hosts.create(cp.db, caller.user_id)
    return schema.HostCreated(host=shape.host(created.host), registration_token=created.registration_token)


@get("/v1/hosts", operation_id="listHosts", tags=["hosts"])
async def listing(cp: Cp, caller: Who) -> list[schema.Host]:
    """All hosts, oldest first."""
    return [shape.host(row) for row in await hosts.listing(cp)]


@get("/v1/hosts/{host_id:str}", operation_id="getHost", tags=["hosts"])
async def get_one(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema.Host:
    """One host."""
    return shape.host(await hosts.get(cp.db, host_id))


@delete("/v1/hosts/{host_id:str}", operation_id="deleteHost", tags=["hosts"])
async def delete_one(
    cp: Cp,
    caller: Who,
    host_id: FromPath[str],
    force: Annotated[
        bool, QueryParameter(description="Although it has sandboxes: they then count as failed")
    ] = False,
) -> None:
    """Remove a host's record. Nothing on the host itself is touched."""
    await hosts.delete(cp, host_id, force=force)


@post("/v1/hosts/{host_id:str}/drain", operation_id="drainHost", tags=["hosts"], status_code=200)
async def drain(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema.Host:
    """Move everything away from a host: nothing new is placed there, running sandboxes go on on others with the same id
    and URL, paused ones rest there. It is done when the host has no sandboxes any more."""
    return shape.host(await drains.begin(cp, host_id))


@delete("/v1/hosts/{host_id:str}/drain", operation_id="undrainHost", tags=["hosts"], status_code=200)
async def undrain(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema.Host:
    """Let a host take part again. What has moved stays where it is."""
    return shape.host(await drains.cancel(cp, host_id))


@post("/v1/hosts/{host_id:str}/token", operation_id="createHostToken", tags=["hosts"])
async def token(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema.HostCreated:
    """Another registration token, for a host whose registration failed or whose credentials were lost."""
    created = await hosts.new_token(cp.db, host_id)
    return schema.HostCreated(host=shape.host(created.host), registration_token=created.registration_token)


@post("/v1/hosts/register", operation_id="registerHost", tags=["agents"], status_code=200)
async def register(cp: Cp, client: From, data: JSONBody[agent.Register]) -> agent.Registered:
    """An agent introduces itself with its registration token and gets its own credentials."""
    await attempts.take(cp, attempts.SECRET_FROM, client.address)
    registered = await hosts.register(cp, data)
    await attempts.give_back(cp, attempts.SECRET_FROM, client.address)
    return registered


@post("/v1/hosts/{host_id:str}/heartbeat", operation_id="heartbeat", tags=["agents"], status_code=204)
async def heartbeat(cp: Cp, host: Agent, host_id: FromPath[str], data: JSONBody[agent.Heartbeat]) -> None:
    """An agent is there, and tells of all its sandboxes."""
    await hosts.heartbeat(cp, host, data)


ADMIN_ROUTES = [create, listing, get_one, delete_one, drain, undrain, token]
