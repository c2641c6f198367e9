"""Opaque cursors: where the next page of a list goes on. Rows are found by a number of their own, or by when they were made
and their id."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated

from litestar.params import QueryParameter

from wrenn_server.model.errors import InvalidRequest

NEXT = "X-Next-Cursor"
LENGTH = 200
Parameter = Annotated[
    str | None, QueryParameter(name="cursor", max_length=LENGTH, description=f"`{NEXT}` of the page before")
]
Limit = Annotated[int, QueryParameter(ge=1, le=1000)]


def header(number: int) -> dict[str, str]:
    return {NEXT: _write(f"n{number}")}


def header_at(created_at: datetime, id: str) -> dict[str, str]:
    return {NEXT: _write(f"{created_at.astimezone(UTC).isoformat()} {id}")}


def read(text: str) -> int:
    """:raises InvalidRequest:"""
    decoded = _read(text)
    digits = decoded.removeprefix("n")
    if decoded == digits or not digits.isdigit() or len(digits) > 18:
        raise _unknown()
    return int(digits)


def read_at(text: str) -> tuple[datetime, str]:
    """:raises InvalidRequest:"""
    moment, _, id = _read(text).partition(" ")
    try:
        created_at = datetime.fromisoformat(moment)
    except ValueError as error:
        raise _unknown() from error
    if created_at.tzinfo is None or not id.replace("_", "").isalnum():
        raise _unknown()
    return created_at, id


def _write(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error, UnicodeError) as error:
        raise _unknown() from error


def _unknown() -> InvalidRequest:
    return InvalidRequest("cursor is not one that a list gave")
