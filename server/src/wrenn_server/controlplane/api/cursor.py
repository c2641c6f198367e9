"""Opaque cursors of lists whose rows have a number of their own: where the next page goes on."""

import base64
import binascii
from typing import Annotated

from litestar.params import QueryParameter

from wrenn_server.model.errors import InvalidRequest

NEXT = "X-Next-Cursor"
Parameter = Annotated[
    str | None, QueryParameter(name="cursor", max_length=64, description=f"`{NEXT}` of the page before")
]


def header(number: int) -> dict[str, str]:
    return {NEXT: base64.urlsafe_b64encode(b"n%d" % number).decode().rstrip("=")}


def read(text: str) -> int:
    """:raises InvalidRequest:"""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
    except (ValueError, binascii.Error, UnicodeError) as error:
        raise InvalidRequest("cursor is not one that a list gave") from error
    digits = decoded.removeprefix("n")
    if decoded == digits or not digits.isdigit() or len(digits) > 18:
        raise InvalidRequest("cursor is not one that a list gave")
    return int(digits)
