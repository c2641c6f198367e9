"""`/v1/hosts`: administration by people, registration and heartbeats by agents."""

from typing import Annotated

from litestar import Response, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET

from wrenn_server.controlplane import schema_hosts
from wrenn_server.controlplane.api import auth, cursor, shape
from wrenn_server.controlplane.api.auth import Agent, Cp, From, Who
from wrenn_server.controlplane.services import attempts, drains, heartbeats, hosts
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire import agent

_HOST = "/v1/hosts/{host_id:str}"
_MANAGES = auth.needs("admin", beyond=True, platform=True)


@post("/v1/hosts", operation_id="createHost", tags=["hosts"], opt=_MANAGES)
async def create(
    cp: Cp, caller: Who, data: JSONBody[schema_hosts.HostCreate | None] = None
) -> schema_hosts.HostCreated:
    """Make a record for a host. Its agent registers with the token: valid for one hour, usable once. Administrators of
    the platform make `regular` ones, owners and administrators of a team `byoc` ones."""
    given = data or schema_hosts.HostCreate()
    if given.type == "regular" and given.team_id is not None:
        raise InvalidRequest("team_id is for hosts of the type byoc")
    team_id = None if given.type == "regular" else given.team_id or caller.team_id
    wanted = hosts.Wanted(team_id=team_id, tags=given.tags, availability_zone=given.availability_zone)
    return _created(await hosts.create_for(cp, caller, wanted))


@get("/v1/hosts", operation_id="listHosts", tags=["hosts"], opt=auth.needs("read", beyond=True))
async def listing(
    cp: Cp,
    caller: Who,
    wanted_type: Annotated[schema_hosts.HostType | None, QueryParameter(name="type")] = None,
    status: FromQuery[schema_hosts.HostStatus | None] = None,
    tag: Annotated[
        list[str] | None, QueryParameter(description="May be given several times, it must have all")
    ] = None,
    availability_zone: Annotated[str | None, QueryParameter(max_length=64)] = None,
    team_id: Annotated[str | None, QueryParameter(max_length=64, description="Whose own they are")] = None,
    limit: cursor.Limit = 100,
    after: cursor.Parameter = None,
) -> Response[list[schema_hosts.Host]]:
    """Your team's own hosts, for administrators of the platform all; oldest first. `X-Next-Cursor` is there when there are
    more."""
    wanted = hosts.Filter(
        team_id=team_id, type=wanted_type, status=status, tags=tag or (), availability_zone=availability_zone
    )
    rows = await hosts.page(
        cp, caller, wanted, after=None if after is None else cursor.read_at(after), limit=limit + 1
    )
    headers = cursor.header_at(rows[limit - 1].created_at, rows[limit - 1].id) if len(rows) > limit else {}
    return Response([shape.host(row) for row in rows[:limit]], headers=headers)


@get(_HOST, operation_id="getHost", tags=["hosts"], opt=auth.needs("read", beyond=True))
async def get_one(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema_hosts.Host:
    """One host."""
    return shape.host(await hosts.seen(cp, caller, host_id))


@patch(_HOST, operation_id="updateHost", tags=["hosts"], opt=_MANAGES)
async def update(
    cp: Cp, caller: Who, host_id: FromPath[str], data: JSONBody[schema_hosts.HostUpdate]
) -> schema_hosts.Host:
    """Change a host's tags and zone, for what is placed from now on."""
    host = await hosts.seen(cp, caller, host_id)
    changed = await hosts.set_traits(
        cp,
        host,
        tags=auth.given(data.tags),
        availability_zone=auth.given(data.availability_zone),
        keep_zone=data.availability_zone is UNSET,
    )
    return shape.host(changed)


@get(
    _HOST + "/delete-preview",
    operation_id="previewHostDelete",
    tags=["hosts"],
    opt=auth.needs("read", beyond=True),
)
async def preview_delete(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema_hosts.HostDeletePreview:
    """What would become of what is on a host if its record were deleted with `force`."""
    host = await hosts.seen(cp, caller, host_id)
    held = await hosts.holdings(cp, host)
    return schema_hosts.HostDeletePreview(
        host=shape.host(host),
        sandbox_ids=held.lost,
        kept_sandbox_ids=held.kept,
        snapshot_ids=held.snapshots,
    )


@delete(_HOST, operation_id="deleteHost", tags=["hosts"], opt=_MANAGES)
async def delete_one(
    cp: Cp,
    caller: Who,
    host_id: FromPath[str],
    force: Annotated[
        bool,
        QueryParameter(
            description="Although it has sandboxes or snapshots; what becomes of those is told by `delete-preview`"
        ),
    ] = False,
) -> None:
    """Remove a host's record. Nothing on the host itself is touched."""
    await hosts.delete(cp, await hosts.seen(cp, caller, host_id), force=force)


@post(_HOST + "/drain", operation_id="drainHost", tags=["hosts"], status_code=200, opt=_MANAGES)
async def drain(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema_hosts.Host:
    """Move everything away from a host: nothing new is placed there, running sandboxes go on on others with the same id
    and URL, paused ones rest there. It is done when the host has no sandboxes any more."""
    return shape.host(await drains.begin(cp, await hosts.seen(cp, caller, host_id)))


@delete(_HOST + "/drain", operation_id="undrainHost", tags=["hosts"], status_code=200, opt=_MANAGES)
async def undrain(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema_hosts.Host:
    """Let a host take part again. What has moved stays where it is."""
    return shape.host(await drains.cancel(cp, await hosts.seen(cp, caller, host_id)))


@post(_HOST + "/token", operation_id="createHostToken", tags=["hosts"], opt=_MANAGES)
async def token(cp: Cp, caller: Who, host_id: FromPath[str]) -> schema_hosts.HostCreated:
    """Another registration token, for a host whose registration failed or whose credentials were lost."""
    host = await hosts.seen(cp, caller, host_id)
    return _created(await hosts.new_token(cp.db, host.id))


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
    await heartbeats.take(cp, host, data)


@post("/v1/hosts/{host_id:str}/renew", operation_id="renewHost", tags=["agents"], status_code=200)
async def renew(cp: Cp, host: Agent, host_id: FromPath[str], data: JSONBody[agent.Renew]) -> agent.Renewed:
    """An agent gets its next certificate and token. The token that it asks with stays good until the new one is used."""
    return await hosts.renew(cp, host, data)


def _created(made: hosts.Created) -> schema_hosts.HostCreated:
    return schema_hosts.HostCreated(host=shape.host(made.host), registration_token=made.registration_token)


ROUTES = [create, listing, get_one, update, preview_delete, delete_one, drain, undrain, token]
