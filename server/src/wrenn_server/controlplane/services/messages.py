"""What each kind of channel is sent. Pure.

Chat services get a line of text in their own JSON. Libraries that speak to all of them (apprise) build and send in one step,
with a client that resolves names by itself and follows redirects: nothing could be judged in between. Six small bodies and
our own `outbound` it is, then.
"""

import hashlib
import hmac
import html
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta

from wrenn_server.controlplane import outbound
from wrenn_server.controlplane.outbound import Message
from wrenn_server.db.channels import Provider
from wrenn_server.model.errors import InvalidRequest

TEXT_MAX = 1500
"""Discord takes 2000 characters, the others more."""
TELEGRAM = "https://api.telegram.org"
_JSON = ("Content-Type", "application/json")

Url = Annotated[str, Meta(min_length=8, max_length=outbound.URL_MAX)]
Token = Annotated[str, Meta(pattern=r"^[!-~]{1,512}$(?!\n)")]


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:
        """Secrets do not belong into logs."""
        return f"{type(self).__name__}(…)"


class Webhook(Config):
    url: Url
    secret: Token
    previous_secret: str | None = None
    previous_until: float = 0.0
    """Seconds since 1970."""


class NewWebhook(Config):
    url: Url
    secret: Annotated[str, Meta(pattern=r"^[!-~]{16,256}$(?!\n)")] | None = None


class Chat(Config):
    """Slack, Discord, Teams, Google Chat: an address that is a secret."""

    webhook_url: Url


class Telegram(Config):
    bot_token: Annotated[str, Meta(pattern=r"^[0-9]{1,20}:[A-Za-z0-9_-]{1,128}$(?!\n)")]
    chat_id: Annotated[str, Meta(pattern=r"^(-?[0-9]{1,20}|@[A-Za-z0-9_]{1,64})$(?!\n)")]
    api_url: Url = TELEGRAM
    """Of a Bot API server of one's own."""


class Matrix(Config):
    homeserver_url: Url
    access_token: Token
    room_id: Annotated[str, Meta(pattern=r"^[!#][!-~]{1,254}$(?!\n)")]


KINDS: dict[Provider, type[Config]] = {
    "webhook": NewWebhook,
    "slack": Chat,
    "discord": Chat,
    "teams": Chat,
    "googlechat": Chat,
    "telegram": Telegram,
    "matrix": Matrix,
}


def read(provider: Provider, config: Mapping[str, object]) -> Config:
    """:raises InvalidRequest: it is not what the provider needs"""
    try:
        read = msgspec.convert(config, KINDS[provider])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"config of {provider}: {error}") from error
    for name in ("url", "webhook_url", "homeserver_url", "api_url"):
        check_url(name, getattr(read, name, None))
    return read


def check_url(name: str, url: str | None) -> None:
    """:raises InvalidRequest:"""
    try:
        if url is not None:
            outbound.parse(url)
    except outbound.BadUrl as error:
        raise InvalidRequest(f"{name}: {error}", code="invalid_url") from error


def webhook(config: Webhook, body: bytes, delivery_id: str, now: datetime) -> Message:
    """`X-Wrenn-Signature: sha256=HEX`, of timestamp, a dot and the body; while a secret is being replaced, with both."""
    timestamp = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    secrets = [config.secret]
    if config.previous_secret is not None and now.timestamp() < config.previous_until:
        secrets.append(config.previous_secret)
    signature = ", ".join(f"sha256={sign(secret, timestamp, body)}" for secret in secrets)
    return Message(
        config.url,
        [
            _JSON,
            ("X-Wrenn-Delivery", delivery_id),
            ("X-Wrenn-Timestamp", timestamp),
            ("X-Wrenn-Signature", signature),
        ],
        body,
    )


def sign(secret: str, timestamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def chat(provider: Provider, config: Config, text: str, delivery_id: str) -> Message:
    """
    :param delivery_id: the same for each attempt: Matrix shows a message once that comes twice with it
    """
    text = text[:TEXT_MAX]
    match config:
        case Telegram():
            url = f"{config.api_url.rstrip('/')}/bot{config.bot_token}/sendMessage"
            return _json(url, {"chat_id": config.chat_id, "text": text})
        case Matrix():
            room = quote(config.room_id, safe="")
            url = f"{config.homeserver_url.rstrip('/')}/_matrix/client/v3/rooms/{room}/send/m.room.message/{delivery_id}"
            message = _json(url, {"msgtype": "m.text", "body": text}, "PUT")
            return Message(
                url,
                [*message.headers, ("Authorization", f"Bearer {config.access_token}")],
                message.body,
                "PUT",
            )
        case Chat():
            return _json(config.webhook_url, _CHATS[provider](text))
        case _:
            raise TypeError(f"{provider} is no chat")


def _slack(text: str) -> Any:
    return {"text": html.escape(text, quote=False)}  # `<!channel>` and links are made with these characters


def _discord(text: str) -> Any:
    return {"content": text, "allowed_mentions": {"parse": []}}


def _teams(text: str) -> Any:
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "TextBlock", "text": text, "wrap": True}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [attachment]}


def _google(text: str) -> Any:
    return {
        "text": text.replace("<", "‹").replace(">", "›")
    }  # `<users/all>` would call everybody; there is no escape


_CHATS = {"slack": _slack, "discord": _discord, "teams": _teams, "googlechat": _google}


def _json(url: str, body: Any, method: str = "POST") -> Message:
    return Message(url, [_JSON], msgspec.json.encode(body), method)
