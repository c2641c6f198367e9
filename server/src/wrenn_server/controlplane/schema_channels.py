"""Channels and webhooks in the native API. As `schema.py`, whose rules hold here, too."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from wrenn_server.controlplane.schema import Request, Time
from wrenn_server.controlplane.schema_events import EventType

Provider = Literal["webhook", "slack", "discord", "teams", "googlechat", "telegram", "matrix"]
Name = Annotated[
    str, Meta(min_length=1, max_length=128, description="Trimmed, in lower case, with - for spaces")
]
Events = Annotated[
    list[EventType], Meta(max_length=32, description="What it is told; none: everything that a team is told")
]
Config = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Any],
    Meta(
        max_length=8,
        description="webhook: `url`, `secret`?; slack, discord, teams, googlechat: `webhook_url`; telegram: `bot_token`, "
        "`chat_id`, `api_url`?; matrix: `homeserver_url`, `access_token`, `room_id`",
    ),
]
Url = Annotated[str, Meta(min_length=8, max_length=2048)]
Secret = Annotated[str, Meta(pattern=r"^[!-~]{16,256}$(?!\n)")]


class ChannelCreate(Request):
    name: Name
    provider: Provider
    config: Config
    events: Events = field(default_factory=list[EventType])


class ChannelUpdate(Request):
    name: Name | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class ChannelConfig(Request):
    config: Config


class ChannelTest(Request):
    provider: Provider
    config: Config


class Channel(Struct, kw_only=True):
    id: str
    team_id: str
    name: str
    provider: Provider
    events: Annotated[list[str], Meta(description="Types of events, or `*`")]
    enabled: bool
    created_at: Time
    updated_at: Time


class ChannelMade(Channel, kw_only=True):
    secret: Annotated[str | UnsetType, Meta(description="Of a webhook; in this answer, and never again")] = (
        UNSET
    )


class Tested(Struct):
    status: Literal["ok"]


class Delivery(Struct, kw_only=True):
    id: Annotated[str, Meta(description="`X-Wrenn-Delivery`: the same for all attempts")]
    channel_id: str
    event_id: Annotated[str | UnsetType, Meta(description="None: a test")] = UNSET
    type: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: Time | UnsetType = UNSET
    created_at: Time
    settled_at: Time | UnsetType = UNSET


class Attempt(Struct, kw_only=True):
    number: int
    at: Time
    duration_ms: int
    status: Annotated[int | UnsetType, Meta(description="HTTP status; none: nothing answered")] = UNSET
    error: Annotated[str | UnsetType, Meta(description="None: it was taken")] = UNSET
    answer: Annotated[str, Meta(description="The first 1024 bytes of the answer's body")]


class DeliveryDetail(Delivery, kw_only=True):
    log: Annotated[list[Attempt], Meta(description="Oldest first")]


class WebhookCreate(Request):
    url: Url
    events: Events = field(default_factory=list[EventType])
    name: Name | None = None
    secret: Annotated[Secret | None, Meta(description="None: one is made")] = None


class WebhookUpdate(Request):
    url: Url | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class WebhookRotate(Request):
    valid_for_sec: Annotated[
        int, Meta(ge=0, le=7 * 24 * 3600, description="How long the old one goes on being used, too")
    ] = 24 * 3600


class Webhook(Struct, kw_only=True):
    id: str
    team_id: str
    name: str
    url: str
    events: list[str]
    enabled: bool
    old_secret_until: Annotated[
        Time | UnsetType, Meta(description="Until then messages are signed with the secret before, too")
    ] = UNSET
    created_at: Time
    updated_at: Time


class WebhookMade(Webhook, kw_only=True):
    secret: str
