"""`/v1/channels`: where a team's events are told, and what became of each."""

from typing import Annotated, Literal

from litestar import Response, delete, get, patch, post, put
from litestar.params import FromPath, JSONBody, QueryParameter

from wrenn_server.controlplane import schema_channels as schema
from wrenn_server.controlplane.api import auth, cursor, shape_channels
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import channels, deliveries
from wrenn_server.model.errors import InvalidRequest, Unavailable

_CHANNEL = "/v1/channels/{channel_id:str}"
_DELIVERY = _CHANNEL + "/deliveries/{delivery_id:str}"
_ADMIN = auth.needs("admin")


@post("/v1/channels", operation_id="createChannel", tags=["channels"], opt=_ADMIN)
async def create(cp: Cp, caller: Who, data: JSONBody[schema.ChannelCreate]) -> schema.ChannelMade:
    """Tell events to a chat room or to an endpoint of yours (`webhook`), whose `secret` is shown only now."""
    made = await channels.create(
        cp,
        caller.team_id,
        name=data.name,
        provider=data.provider,
        events=data.events,
        config=data.config,
    )
    return shape_channels.made(made)


@get("/v1/channels", operation_id="listChannels", tags=["channels"])
async def listing(cp: Cp, caller: Who) -> list[schema.Channel]:
    """The team's channels, oldest first; without their configuration, which is secret."""
    return [shape_channels.channel(row) for row in await channels.listing(cp, caller.team_id)]


@get(_CHANNEL, operation_id="getChannel", tags=["channels"])
async def get_one(cp: Cp, caller: Who, channel_id: FromPath[str]) -> schema.Channel:
    """One channel."""
    return shape_channels.channel(await channels.get(cp, caller.team_id, channel_id))


@patch(_CHANNEL, operation_id="updateChannel", tags=["channels"], opt=_ADMIN)
async def update(
    cp: Cp, caller: Who, channel_id: FromPath[str], data: JSONBody[schema.ChannelUpdate]
) -> schema.Channel:
    """Change its name, what it is told, or whether it is told anything."""
    made = await channels.update(
        cp,
        caller.team_id,
        channel_id,
        name=auth.given(data.name),
        events=auth.given(data.events),
        enabled=auth.given(data.enabled),
    )
    return shape_channels.channel(made.row)


@put(_CHANNEL + "/config", operation_id="setChannelConfig", tags=["channels"], opt=_ADMIN)
async def set_config(
    cp: Cp, caller: Who, channel_id: FromPath[str], data: JSONBody[schema.ChannelConfig]
) -> schema.ChannelMade:
    """Change where it leads, in place of all that was. A webhook gets a new secret, which is shown only now, unless one is
    given."""
    return shape_channels.made(await channels.update(cp, caller.team_id, channel_id, config=data.config))


@delete(_CHANNEL, operation_id="deleteChannel", tags=["channels"], opt=_ADMIN)
async def delete_one(cp: Cp, caller: Who, channel_id: FromPath[str]) -> None:
    """Remove a channel; what it has not been told yet it will not be told."""
    await channels.delete(cp, caller.team_id, channel_id)


@post("/v1/channels/test", operation_id="testChannelConfig", tags=["channels"], status_code=200, opt=_ADMIN)
async def test_config(cp: Cp, caller: Who, data: JSONBody[schema.ChannelTest]) -> schema.Tested:
    """Send a message to where no channel leads yet."""
    outcome = await deliveries.try_config(cp, caller.team_id, data.provider, data.config, shape_channels.body)
    if outcome.error is not None:
        kind = InvalidRequest if outcome.status is None or outcome.status < 500 else Unavailable
        raise kind(f"the message was not taken: {outcome.error}", code="delivery_failed", retryable=False)
    return schema.Tested("ok")


@post(_CHANNEL + "/test", operation_id="testChannel", tags=["channels"], status_code=200, opt=_ADMIN)
async def test(cp: Cp, caller: Who, channel_id: FromPath[str]) -> schema.DeliveryDetail:
    """Send it a message now, once, and tell what became of that."""
    return shape_channels.detail(*await deliveries.test(cp, caller.team_id, channel_id, shape_channels.body))


@get(_CHANNEL + "/deliveries", operation_id="listDeliveries", tags=["channels"])
async def delivery_listing(
    cp: Cp,
    caller: Who,
    channel_id: FromPath[str],
    wanted: Annotated[
        Literal["pending", "delivered", "failed"] | None,
        QueryParameter(name="state", description="Only of this state"),
    ] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
    after: cursor.Parameter = None,
) -> Response[list[schema.Delivery]]:
    """What it was told, newest first; kept for 30 days."""
    rows = await deliveries.page(
        cp,
        caller.team_id,
        channel_id,
        state=wanted,
        before=None if after is None else cursor.read(after),
        limit=limit + 1,
    )
    return Response(
        [shape_channels.delivery(row) for row in rows[:limit]],
        headers=cursor.header(rows[limit - 1].sequence) if len(rows) > limit else {},
    )


@get(_DELIVERY, operation_id="getDelivery", tags=["channels"])
async def get_delivery(
    cp: Cp, caller: Who, channel_id: FromPath[str], delivery_id: FromPath[str]
) -> schema.DeliveryDetail:
    """One delivery with all its attempts."""
    return shape_channels.detail(*await deliveries.get(cp, caller.team_id, channel_id, delivery_id))


@post(_DELIVERY + "/redeliver", operation_id="redeliver", tags=["channels"], status_code=202, opt=_ADMIN)
async def redeliver(
    cp: Cp, caller: Who, channel_id: FromPath[str], delivery_id: FromPath[str]
) -> schema.Delivery:
    """Tell it once more, whatever became of it."""
    return shape_channels.delivery(await deliveries.redeliver(cp, caller.team_id, channel_id, delivery_id))


ROUTES = [
    create,
    listing,
    get_one,
    update,
    set_config,
    delete_one,
    test_config,
    test,
    delivery_listing,
    get_delivery,
    redeliver,
]
