"""Names of templates: `[namespace/]name[:tag]`, as E2B's SDKs write them. Pure."""

import re
from dataclasses import dataclass

from wrenn_server.model.errors import InvalidRequest

DEFAULT_TAG = "default"
"""What a name without a tag means."""

_NAME = re.compile(r"[a-z0-9_-]{1,128}", re.ASCII)
_TAG = re.compile(r"[a-z0-9_.-]{1,128}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)
_ID = re.compile(r"(?:tpl|snap)_[a-z0-9]{20}", re.ASCII)
_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Reference:
    """What a text that names a template says. Nothing is known of whether there is such a template."""

    namespace: str | None
    """A team's id; None: the caller's own team, and the platform."""
    name: str
    """Or an id."""
    tag: str | None


def parse_reference(text: str) -> Reference:
    """:raises InvalidRequest: a part is missing or is not text that can be stored, as in `:x`, `name:`, `/name`"""
    before, slash, rest = text.rpartition("/")
    name, colon, tag = rest.partition(":")
    whole = bool(name) and (bool(before) or not slash) and (bool(tag) or not colon)
    if not whole or len(text) > _LENGTH or ":" in tag or "/" in before or "\0" in text:
        raise InvalidRequest(
            f"{text[:100]!r} does not name a template",
            hint="write name, name:tag or an id",
            code="invalid_template",
        )
    return Reference(before or None, name, tag or None)


def new_name(text: str) -> str:
    """The name as it is kept, for a template that is about to be made.

    :raises InvalidRequest:
    """
    name = text.lower()
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        raise InvalidRequest(
            f"{text[:100]!r} cannot be a template's name",
            hint="use 1 to 128 of a-z, 0-9, - and _, and not the form of an id",
            code="invalid_template",
        )
    return name


def new_tag(text: str) -> str:
    """
    :raises InvalidRequest:
    """
    tag = text.lower()
    if not _TAG.fullmatch(tag) or _UUID.fullmatch(tag):
        raise InvalidRequest(
            f"{text[:100]!r} cannot be a tag",
            hint="use 1 to 128 of a-z, 0-9, -, _ and ., and not the form of a UUID",
            code="invalid_tag",
        )
    return tag
