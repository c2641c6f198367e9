"""How events get to channels: at least once, tried again for about half a day, each attempt on record."""

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec
import structlog

from wrenn_server.controlplane import outbound
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.outbound import Message, Outcome
from wrenn_server.controlplane.services import channels, messages
from wrenn_server.controlplane.services.messages import Config, Webhook
from wrenn_server.db import channels as db_channels
from wrenn_server.db import deliveries, events
from wrenn_server.db.channels import Provider
from wrenn_server.db.deliveries import AttemptRow, DeliveryRow
from wrenn_server.db.events import EventRow
from wrenn_server.model.errors import Conflict, NotFound

TRIES = 12
FIRST_SEC, LONGEST_SEC = 10.0, 6 * 3600.0
KEEP_SEC = 30 * 24 * 3600.0
EXPIRE_INTERVAL = 600.0
_EXPIRED = 10_000

log = structlog.get_logger()

Body = Callable[[EventRow], bytes]
"""An event as a webhook gets it: the API's own form, which is the API's affair."""


async def deliver(cp: ControlPlane, claimed: DeliveryRow, body: Body) -> None:
    """One attempt, and what is to follow from it."""
    outcome = await _attempt(cp, claimed, body)
    again = None
    if outcome.error is not None and claimed.event_id is not None:
        again = delay(claimed.attempts - claimed.restarted, random.random())  # noqa: S311 - no secret
        log.info("not delivered", action="delivery_failed", delivery_id=claimed.id, error=outcome.error)
    await deliveries.settle(
        cp.db,
        claimed,
        duration_ms=outcome.duration_ms,
        status=outcome.status,
        error=outcome.error,
        answer=outcome.answer,
        again_sec=again,
    )


async def test(
    cp: ControlPlane, team_id: str, channel_id: str, body: Body
) -> tuple[DeliveryRow, list[AttemptRow]]:
    """Tries a channel now, once. :raises NotFound:"""
    row = await channels.get(cp, team_id, channel_id)
    delivery = await deliveries.insert_test(cp.db, row.id)
    await cp.work.finish(deliver(cp, delivery, body), f"test {row.id}")
    return await get(cp, team_id, row.id, delivery.id)


async def try_config(
    cp: ControlPlane, team_id: str, provider: Provider, given: Mapping[str, object], body: Body
) -> Outcome:
    """Tries what no channel has yet. :raises InvalidRequest:"""
    config, _ = channels.kept(messages.read(provider, given))
    event = _test_event(team_id, "dlv_test", datetime.now(UTC))
    return await outbound.send(
        _message(provider, config, event, "dlv_test", body), private=cp.config.webhooks_private
    )


async def get(
    cp: ControlPlane, team_id: str, channel_id: str, delivery_id: str
) -> tuple[DeliveryRow, list[AttemptRow]]:
    """:raises NotFound:"""
    row = await channels.get(cp, team_id, channel_id)
    found = await deliveries.get(cp.db, row.id, delivery_id)
    if found is None:
        raise NotFound(f"delivery {delivery_id[:64]} does not exist")
    return found, await deliveries.attempts(cp.db, found.id)


async def page(
    cp: ControlPlane, team_id: str, channel_id: str, *, state: str | None, before: int | None, limit: int
) -> list[DeliveryRow]:
    """Newest first. :raises NotFound:"""
    row = await channels.get(cp, team_id, channel_id)
    return await deliveries.page(cp.db, row.id, state=state, before=before, limit=limit)


async def redeliver(cp: ControlPlane, team_id: str, channel_id: str, delivery_id: str) -> DeliveryRow:
    """Once more, whatever became of it. :raises NotFound: :raises Conflict: it is being tried now"""
    found, _ = await get(cp, team_id, channel_id, delivery_id)
    if found.event_id is None:
        raise Conflict(f"delivery {found.id} is a test", hint="test the channel again")
    again = await deliveries.restart(cp.db, found.channel_id, found.id)
    if again is None:
        raise Conflict(f"delivery {found.id} is being tried now", retryable=True)
    return again


async def expire(cp: ControlPlane) -> None:
    """One control plane at a time deletes what is too old, a piece at a time, so that nothing waits for it."""
    deleted = _EXPIRED
    while deleted == _EXPIRED:
        async with cp.db.transaction() as tx:
            deleted = await deliveries.expire(tx, KEEP_SEC, _EXPIRED)


def delay(tries: int, chance: float) -> float | None:
    """Seconds until the next attempt: twice as long each time, between half and one and a half of that, so that what failed
    together does not come together. None: not any more.

    :param tries: so far, from 1
    :param chance: from 0 to 1
    """
    if tries >= TRIES:
        return None
    return min(FIRST_SEC * 2 ** (tries - 1), LONGEST_SEC) * (0.5 + chance)


async def _attempt(cp: ControlPlane, claimed: DeliveryRow, body: Body) -> Outcome:
    row = await db_channels.by_id(cp.db, claimed.channel_id)
    if row is None:
        return Outcome(None, "the channel is gone", "", 0)
    if not row.enabled and claimed.event_id is not None:
        return Outcome(None, "the channel is off", "", 0)
    if claimed.event_id is None:
        event = _test_event(row.team_id, claimed.id, claimed.created_at)
    else:
        event = await events.get(cp.db, claimed.event_id)
        if event is None:
            return Outcome(None, "the event is not kept any more", "", 0)
    try:
        message = _message(row.provider, channels.config(cp, row), event, claimed.id, body)
    except (ValueError, msgspec.DecodeError) as error:
        log.error(
            "a channel cannot be read", action="channel_unreadable", channel_id=row.id, error=str(error)
        )
        return Outcome(None, "the channel's configuration cannot be read: set it again", "", 0)
    return await outbound.send(message, private=cp.config.webhooks_private)


def _message(provider: Provider, config: Config, event: EventRow, delivery_id: str, body: Body) -> Message:
    if isinstance(config, Webhook):
        return messages.webhook(config, body(event), delivery_id, datetime.now(UTC))
    return messages.chat(provider, config, text(event), delivery_id)


def text(event: EventRow) -> str:
    """An event in one line."""
    if event.type == "test":
        return "Wrenn: this channel works"
    words = ["Wrenn:", event.type, event.resource_id]
    if event.outcome is not None:
        words.append("succeeded" if event.outcome == "success" else f"failed: {event.error or ''}")
    elif {"from", "to"} <= event.metadata.keys():
        words.append(f"from {event.metadata['from']} to {event.metadata['to']}")
    if reason := event.metadata.get("reason"):
        words.append(f"({reason})")
    if event.actor_type != "system":
        words.append(f"by {event.actor_name or event.actor_id}")
    return " ".join(" ".join(words).split())


def _test_event(team_id: str, id: str, at: datetime) -> EventRow:
    return EventRow(
        position=0,
        id=id.replace("dlv_", "evt_"),
        team_id=team_id,
        type="test",
        outcome=None,
        resource_type="channel",
        resource_id=id,
        actor_type="system",
        actor_id=None,
        actor_name=None,
        metadata={},
        error=None,
        sandbox=None,
        created_at=at,
    )
