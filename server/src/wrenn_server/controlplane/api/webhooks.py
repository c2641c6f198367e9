"""`/v1/webhooks`: channels that are endpoints of the team's own, with signed messages."""

from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane import schema_channels as schema
from wrenn_server.controlplane.api import auth, shape_channels
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import channels

_WEBHOOK = "/v1/webhooks/{webhook_id:str}"
_ADMIN = auth.needs("admin")


@post("/v1/webhooks", operation_id="createWebhook", tags=["webhooks"], opt=_ADMIN)
async def create(cp: Cp, caller: Who, data: JSONBody[schema.WebhookCreate]) -> schema.WebhookMade:
    """Have events sent to a URL, signed with `secret`, which is shown only now. A webhook is a channel: its deliveries and
    its test are under `/v1/channels`."""
    config = {"url": data.url, **({"secret": data.secret} if data.secret else {})}
    made = await channels.create(
        cp,
        caller.team_id,
        name=data.name or data.url.partition("://")[2].partition("/")[0][:120] or "webhook",
        provider=channels.WEBHOOK,
        events=data.events,
        config=config,
    )
    return shape_channels.webhook_made(made, channels.webhook_config(cp, made.row))


@get("/v1/webhooks", operation_id="listWebhooks", tags=["webhooks"], opt=_ADMIN)
async def listing(cp: Cp, caller: Who) -> list[schema.Webhook]:
    """The team's webhooks, oldest first. Their addresses may be secrets, so this is for administrators."""
    rows = await channels.listing(cp, caller.team_id, webhooks_only=True)
    return [shape_channels.webhook(row, channels.webhook_config(cp, row)) for row in rows]


@get(_WEBHOOK, operation_id="getWebhook", tags=["webhooks"], opt=_ADMIN)
async def get_one(cp: Cp, caller: Who, webhook_id: FromPath[str]) -> schema.Webhook:
    """One webhook."""
    row = await channels.get(cp, caller.team_id, webhook_id, webhook=True)
    return shape_channels.webhook(row, channels.webhook_config(cp, row))


@patch(_WEBHOOK, operation_id="updateWebhook", tags=["webhooks"], opt=_ADMIN)
async def update(
    cp: Cp, caller: Who, webhook_id: FromPath[str], data: JSONBody[schema.WebhookUpdate]
) -> schema.Webhook:
    """Change its name, URL, what it is told, or whether it is told anything. Its secret stays."""
    made = await channels.update(
        cp,
        caller.team_id,
        webhook_id,
        name=auth.given(data.name),
        events=auth.given(data.events),
        enabled=auth.given(data.enabled),
        url=auth.given(data.url),
        webhook=True,
    )
    return shape_channels.webhook(made.row, channels.webhook_config(cp, made.row))


@post(
    _WEBHOOK + "/rotate", operation_id="rotateWebhookSecret", tags=["webhooks"], status_code=200, opt=_ADMIN
)
async def rotate(
    cp: Cp, caller: Who, webhook_id: FromPath[str], data: JSONBody[schema.WebhookRotate | None] = None
) -> schema.WebhookMade:
    """A new secret, which is shown only now. For `valid_for_sec` messages are signed with the old one, too."""
    given = data or schema.WebhookRotate()
    made = await channels.rotate(cp, caller.team_id, webhook_id, given.valid_for_sec)
    return shape_channels.webhook_made(made, channels.webhook_config(cp, made.row))


@delete(_WEBHOOK, operation_id="deleteWebhook", tags=["webhooks"], opt=_ADMIN)
async def delete_one(cp: Cp, caller: Who, webhook_id: FromPath[str]) -> None:
    """Remove a webhook; what it has not been told yet it will not be told."""
    await channels.delete(cp, caller.team_id, webhook_id, webhook=True)


ROUTES = [create, listing, get_one, update, rotate, delete_one]
