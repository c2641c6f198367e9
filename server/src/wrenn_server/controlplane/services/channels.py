"""Channels: where a team's events are told. A webhook is one of them. What they are told with is kept sealed, and shown to
nobody but the secret of a webhook, once."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import messages
from wrenn_server.controlplane.services.messages import Config, NewWebhook, Webhook
from wrenn_server.db import channels
from wrenn_server.db.channels import ChannelRow, Provider
from wrenn_server.model.errors import Conflict, InvalidRequest, NotFound
from wrenn_server.model.ids import new_channel_id, parse_channel_id

AT_MOST = 100
"""For each team."""
WEBHOOK: Provider = "webhook"


@dataclass(frozen=True, slots=True)
class Made:
    """
    :ivar secret: of a webhook, shown now and never again
    """

    row: ChannelRow
    secret: str | None = field(default=None, repr=False)


async def create(
    cp: ControlPlane,
    team_id: str,
    *,
    name: str,
    provider: Provider,
    events: Sequence[str],
    config: Mapping[str, object],
) -> Made:
    """
    :param events: types; empty: all
    :raises InvalidRequest:
    :raises Conflict: `name_taken`; `too_many_channels`
    """
    name = tidy(name)
    id = new_channel_id()
    keeping, secret = kept(messages.read(provider, config))
    row = await channels.insert(
        cp.db,
        id=id,
        team_id=team_id,
        name=name,
        provider=provider,
        events=_events(events),
        config=_seal(cp, id, keeping),
        at_most=AT_MOST,
    )
    if row is None:
        await _refuse_name(cp, team_id, name)
        raise Conflict(f"a team has at most {AT_MOST} channels", code="too_many_channels")
    return Made(row, secret)


async def listing(cp: ControlPlane, team_id: str, *, webhooks_only: bool = False) -> list[ChannelRow]:
    return await channels.of_team(cp.db, team_id, webhooks_only=webhooks_only)


async def get(cp: ControlPlane, team_id: str, id: str, *, webhook: bool = False) -> ChannelRow:
    """:param webhook: nothing else will do; :raises NotFound:"""
    parsed = parse_channel_id(id)
    row = await channels.get(cp.db, team_id, parsed) if parsed else None
    if row is None or (webhook and row.provider != WEBHOOK):
        raise NotFound(f"{'webhook' if webhook else 'channel'} {id[:64]} does not exist")
    return row


async def update(
    cp: ControlPlane,
    team_id: str,
    id: str,
    *,
    name: str | None = None,
    events: Sequence[str] | None = None,
    enabled: bool | None = None,
    config: Mapping[str, object] | None = None,
    url: str | None = None,
    webhook: bool = False,
) -> Made:
    """None: as it is.

    :param config: in place of all that was; a webhook gets a new secret unless one is given
    :param url: of a webhook, which keeps its secret
    :raises NotFound: :raises InvalidRequest: :raises Conflict: `name_taken`, or changed meanwhile
    """
    row = await get(cp, team_id, id, webhook=webhook)
    sealed, secret = row.config, None
    if config is not None:
        keeping, secret = kept(messages.read(row.provider, config))
        sealed = _seal(cp, row.id, keeping)
    if url is not None:
        messages.check_url("url", url)
        sealed = _seal(cp, row.id, msgspec.structs.replace(webhook_config(cp, row), url=url))
    tidied = row.name if name is None else tidy(name)
    return Made(
        await _update(
            cp,
            row,
            name=tidied,
            events=row.events if events is None else _events(events),
            config=sealed,
            enabled=row.enabled if enabled is None else enabled,
        ),
        secret,
    )


async def rotate(cp: ControlPlane, team_id: str, id: str, valid_for_sec: int) -> Made:
    """A new secret for a webhook. For so long messages are signed with the old one, too.

    :raises NotFound: :raises Conflict:
    """
    row = await get(cp, team_id, id, webhook=True)
    old = webhook_config(cp, row)
    new = msgspec.structs.replace(
        old,
        secret=secrets.token_hex(32),
        previous_secret=old.secret if valid_for_sec else None,
        previous_until=time.time() + valid_for_sec,
    )
    sealed = _seal(cp, row.id, new)
    updated = await _update(cp, row, name=row.name, events=row.events, config=sealed, enabled=row.enabled)
    return Made(updated, new.secret)


async def delete(cp: ControlPlane, team_id: str, id: str, *, webhook: bool = False) -> None:
    """:raises NotFound:"""
    row = await get(cp, team_id, id, webhook=webhook)
    if not await channels.delete(cp.db, team_id, row.id):
        raise NotFound(f"channel {id[:64]} does not exist")


def config(cp: ControlPlane, row: ChannelRow) -> Config:
    """:raises ValueError: it does not open"""
    kind = Webhook if row.provider == WEBHOOK else messages.KINDS[row.provider]
    return msgspec.json.decode(cp.keys.sealer.open(row.config, row.id), type=kind)


def webhook_config(cp: ControlPlane, row: ChannelRow) -> Webhook:
    return cast("Webhook", config(cp, row))


def kept(given: Config) -> tuple[Config, str | None]:
    """What is kept of it, and the secret that is to be shown."""
    if isinstance(given, NewWebhook):
        secret = given.secret or secrets.token_hex(32)
        return Webhook(url=given.url, secret=secret), secret
    return given, None


def tidy(name: str) -> str:
    """As the published server does it. :raises InvalidRequest:"""
    tidied = name.strip().lower().replace(" ", "-")
    if not tidied or not tidied.isprintable():
        raise InvalidRequest("a channel needs a name")
    return tidied


async def _update(
    cp: ControlPlane, row: ChannelRow, *, name: str, events: Sequence[str], config: bytes, enabled: bool
) -> ChannelRow:
    updated = await channels.update(cp.db, row, name=name, events=events, config=config, enabled=enabled)
    if updated is None:
        await _refuse_name(cp, row.team_id, name, besides=row.id)
        raise Conflict(f"channel {row.id} was changed by somebody else at the same moment", retryable=True)
    return updated


async def _refuse_name(cp: ControlPlane, team_id: str, name: str, *, besides: str = "") -> None:
    """:raises Conflict: another one has it"""
    if await channels.name_taken(cp.db, team_id, name, besides=besides):
        raise Conflict(f"the team has a channel {name} already", code="name_taken")


def _events(given: Sequence[str]) -> list[str]:
    return sorted(set(given)) or ["*"]


def _seal(cp: ControlPlane, id: str, config: Config) -> bytes:
    return cp.keys.sealer.seal(msgspec.json.encode(config), id)
