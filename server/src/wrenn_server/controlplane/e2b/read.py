"""Texts of requests as E2B's SDKs write them: path segments, filters, tokens of pages. Pure."""

import base64
import binascii
import re
from collections.abc import Collection
from datetime import UTC, datetime
from urllib.parse import unquote, unquote_plus

from wrenn_server.model.errors import InvalidRequest
from wrenn_server.model.sandbox import Shape, State

STATES: dict[str, frozenset[State]] = {
    "running": frozenset({State.RUNNING, State.RESUMING, State.LOST}),
    "paused": frozenset({State.PAUSING, State.PAUSED}),
}
"""What a sandbox is said to be, and what it is then. `lost` may come back, so it is not gone."""

_CURSOR_ID = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)
_CURSOR_LENGTH = 200


def segment(text: str) -> str:
    """One segment of a path as it was on the wire, where `/` and `:` of names are percent-encoded."""
    return unquote(text)


def sandbox_id(text: str) -> str:
    """Also `id-client`, as the SDKs of 2024 write it."""
    return segment(text).partition("-")[0]


def timeout(seconds: int | None, default: int) -> int:
    """:raises InvalidRequest: not from 1 second to the longest"""
    value = default if seconds is None else seconds
    if not 1 <= value <= Shape.TIMEOUT_MAX:
        raise InvalidRequest(f"timeout {value}: expected 1 to {Shape.TIMEOUT_MAX} seconds")
    return value


def states(texts: Collection[str] | None) -> frozenset[State]:
    """`running,paused`, in one parameter or several. :raises InvalidRequest:"""
    words = ",".join(texts or STATES).split(",")
    unknown = [word for word in words if word not in STATES]
    if unknown:
        raise InvalidRequest(f"state {unknown[0][:100]!r}: expected running or paused")
    return frozenset[State]().union(*(STATES[word] for word in words))


def metadata(text: str | None) -> dict[str, str]:
    """`key=value&key=value`, of which each part is encoded, and then the whole: the query's own decoding leaves two.

    :raises InvalidRequest:
    """
    pairs: dict[str, str] = {}
    for part in unquote_plus(text or "").split("&"):
        key, equals, value = part.partition("=")
        if not part:
            continue
        if not equals or not key or "\0" in unquote_plus(part):
            raise InvalidRequest(f"metadata {part[:100]!r}: expected key=value")
        pairs[unquote_plus(key)] = unquote_plus(value)
    return pairs


def moment(text: str | None, name: str) -> datetime | None:
    """RFC 3339; a plus sign that was not encoded arrives as a space. :raises InvalidRequest:"""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.strip().replace(" ", "+"))
    except ValueError as error:
        raise InvalidRequest(f"{name} {text[:100]!r} is not a time") from error
    if found.tzinfo is None:
        raise InvalidRequest(f"{name} {text[:100]!r} has no offset from UTC, such as Z")
    return found


def unix_time(seconds: int | None, name: str) -> datetime | None:
    """:raises InvalidRequest:"""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidRequest(f"{name} {seconds} is not a time in seconds") from error


def write_cursor(created_at: datetime, id: str, *, ascending: bool = False) -> str:
    order = "asc" if ascending else "desc"
    text = f"{created_at.astimezone(UTC).isoformat()} {id} {order}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(text: str | None, *, ascending: bool = False) -> tuple[datetime, str] | None:
    """:raises InvalidRequest: also one of a list in the other order"""
    if not text:
        return None
    if len(text) > _CURSOR_LENGTH:
        raise _bad_cursor()
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        created, id, order = decoded.split(" ")
        created_at = datetime.fromisoformat(created)
    except (ValueError, binascii.Error, UnicodeError) as error:
        raise _bad_cursor() from error
    if created_at.tzinfo is None or not _CURSOR_ID.fullmatch(id):
        raise _bad_cursor()
    if order != ("asc" if ascending else "desc"):
        raise InvalidRequest("nextToken belongs to a list in another order", code="invalid_cursor")
    return created_at, id


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest("nextToken is not one that a list gave", code="invalid_cursor")
