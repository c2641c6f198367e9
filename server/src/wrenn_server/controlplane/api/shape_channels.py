"""Channels, webhooks and deliveries as the API's structs. Pure, but for what time it is."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from wrenn_server.controlplane import schema_channels as schema
from wrenn_server.controlplane.api import shape_events
from wrenn_server.controlplane.api.shape import or_unset
from wrenn_server.controlplane.services import messages
from wrenn_server.controlplane.services.channels import Made
from wrenn_server.db.channels import ChannelRow
from wrenn_server.db.deliveries import AttemptRow, DeliveryRow
from wrenn_server.db.events import EventRow


def body(event: EventRow) -> bytes:
    """What a webhook is sent."""
    if event.type == "test":
        return msgspec.json.encode(
            {
                "id": event.id,
                "type": "test",
                "event": "test",
                "resource": {"type": "channel", "id": event.resource_id},
                "actor": {"type": "system"},
                "metadata": {},
                "timestamp": event.created_at,
            }
        )
    return msgspec.json.encode(shape_events.event(event))


def channel(row: ChannelRow) -> schema.Channel:
    return schema.Channel(**_channel(row))


def made(found: Made) -> schema.ChannelMade:
    return schema.ChannelMade(**_channel(found.row), secret=or_unset(found.secret))


def webhook(row: ChannelRow, config: messages.Webhook) -> schema.Webhook:
    return schema.Webhook(**_webhook(row, config))


def webhook_made(found: Made, config: messages.Webhook) -> schema.WebhookMade:
    return schema.WebhookMade(**_webhook(found.row, config), secret=config.secret)


def delivery(row: DeliveryRow) -> schema.Delivery:
    return schema.Delivery(**_delivery(row))


def detail(row: DeliveryRow, attempts: Sequence[AttemptRow]) -> schema.DeliveryDetail:
    log = [
        schema.Attempt(
            number=attempt.number,
            at=attempt.at,
            duration_ms=attempt.duration_ms,
            status=or_unset(attempt.status),
            error=or_unset(attempt.error),
            answer=attempt.answer,
        )
        for attempt in attempts
    ]
    return schema.DeliveryDetail(**_delivery(row), log=log)


def _channel(row: ChannelRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "team_id": row.team_id,
        "name": row.name,
        "provider": row.provider,
        "events": row.events,
        "enabled": row.enabled,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _webhook(row: ChannelRow, config: messages.Webhook) -> dict[str, Any]:
    shape = _channel(row)
    del shape["provider"]
    until = datetime.fromtimestamp(config.previous_until, UTC)
    rotating = config.previous_secret is not None and until > datetime.now(UTC)
    return {**shape, "url": config.url, "old_secret_until": until if rotating else UNSET}


def _delivery(row: DeliveryRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "channel_id": row.channel_id,
        "event_id": or_unset(row.event_id),
        "type": row.type,
        "state": row.state,
        "attempts": row.attempts,
        "next_attempt_at": row.next_at if row.state == "pending" else UNSET,
        "created_at": row.created_at,
        "settled_at": or_unset(row.settled_at),
    }
