"""HTTP/1.1 heads, strictly: bytes to values and back, and how long the body is (RFC 9110, RFC 9112).

Pure. Whatever is ambiguous is refused, because two parsers that disagree on where a request ends is request
smuggling: the grammar below admits no bare LF or CR, NUL, folded line or blank before a colon, and the framing
no Content-Length beside Transfer-Encoding, no second or odd Content-Length, no coding but `chunked`.
Text is Latin-1 on both ways, so that any byte a head may carry survives unchanged.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, Self

import msgspec

MAX_HEAD = 64 * 1024
"""Bytes of a head with its blank line."""
MAX_HEADERS = 200

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Possessive: each byte is looked at once, whatever comes.
_FIELDS = r"((?:" + _NAME + r"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
_VERSION = r"HTTP/([0-9]\.[0-9])"
_REQUEST = re.compile(rf"({_NAME}{{1,64}}+) ([\x21-\x7e\x80-\xff]++) {_VERSION}\r\n{_FIELDS}")
_RESPONSE = re.compile(rf"{_VERSION} ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n{_FIELDS}")
_RAW = re.compile(r"[\x80-\xff]")
_LINE = re.compile(r"([^:]++):[\t ]*+([^\r]*[^\t\r ]|)[\t ]*+\r\n")
"""A line that is known to be one: its name, and its value without the blanks around it."""
_SHORT = 1024  # bytes of a head that is worth remembering
_MINORS = {"1.1": 1, "1.0": 0}
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)

Headers = tuple[tuple[str, str], ...]


class BadHead(Exception):
    """A head, or the framing that it announces, that is not HTTP/1.1 as written.

    :ivar status: 400, 431 (too long, too many headers) or 505 (another version of HTTP)
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Framing(msgspec.Struct, frozen=True):
    """Where the body ends. `close`: with the connection, for responses only."""

    kind: Literal["none", "length", "chunked", "close"]
    length: int = 0


NO_BODY = Framing("none")
CHUNKED = Framing("chunked")
UNTIL_CLOSE = Framing("close")


class _Fields(msgspec.Struct, frozen=True):
    headers: Headers
    """Name as received and value, in order."""
    fields: dict[str, str]
    """Lower-case name to value; several lines of one name are joined by `, ` as RFC 9110 5.3 has it."""

    def get(self, name: str) -> str | None:
        """:param name: lower case"""
        return self.fields.get(name)

    def tokens(self, name: str) -> set[str]:
        """Members of a comma-separated field, lower case: `Connection`, `Upgrade`."""
        value = self.fields.get(name)
        if not value:
            return set()
        if "," not in value:
            return {value.strip().lower()}
        return {token.strip().lower() for token in value.split(",")}


class Head(_Fields, frozen=True):
    """Head of a request."""

    method: str
    target: str
    """Request target as received: `/path?query`, `http://host/path`, `host:port` (CONNECT) or `*`."""
    minor: int = 1
    """HTTP/1.0 or HTTP/1.1."""

    @classmethod
    def of(cls, method: str, target: str, headers: Iterable[tuple[str, str]], minor: int = 1) -> Self:
        headers = tuple(headers)
        return cls(headers, index(headers), method, target, minor)

    def encode(self) -> bytes:
        return encode(f"{self.method} {self.target} HTTP/1.{self.minor}", self.headers)

    @property
    def path(self) -> str:
        """The target up to its query."""
        return self.target.partition("?")[0]


class ResponseHead(_Fields, frozen=True):
    status: int
    reason: str = ""
    minor: int = 1

    @classmethod
    def of(cls, status: int, headers: Iterable[tuple[str, str]], reason: str = "", minor: int = 1) -> Self:
        headers = tuple(headers)
        return cls(headers, index(headers), status, reason, minor)

    def encode(self) -> bytes:
        return encode(f"HTTP/1.{self.minor} {self.status} {self.reason}", self.headers)


def parse_request(data: bytes) -> Head:
    """:param data: from the first byte through the blank line
    :raises BadHead: anything else than one well-formed head
    """
    return _request(data) if len(data) <= _SHORT else _request.__wrapped__(data)


def parse_response(data: bytes) -> ResponseHead:
    """:raises BadHead:"""
    return _response(data) if len(data) <= _SHORT else _response.__wrapped__(data)


# A client that polls, and a server that is polled, send the same head again and again.
@lru_cache(maxsize=1024)
def _request(data: bytes) -> Head:
    match = _REQUEST.fullmatch(data.decode("latin-1"))
    if match is None:
        raise _diagnosis(data, "request line")
    method, target, version, block = match.groups()
    headers = _split(block)
    if not target.isascii():
        # Sent so by curl and others; many servers refuse it, and to the rest the two forms are one.
        target = _RAW.sub(lambda byte: f"%{ord(byte[0]):02X}", target)
    return Head(headers, index(headers), method, target, _minor(version))


@lru_cache(maxsize=1024)
def _response(data: bytes) -> ResponseHead:
    match = _RESPONSE.fullmatch(data.decode("latin-1"))
    if match is None:
        raise _diagnosis(data, "status line")
    version, status, reason, block = match.groups()
    headers = _split(block)
    return ResponseHead(headers, index(headers), int(status), reason or "", _minor(version))


def request_framing(head: Head) -> Framing:
    """:raises BadHead: the length of the body is ambiguous"""
    fields = head.fields
    if "content_length" in fields or "transfer_encoding" in fields:
        # CGI-style servers read `_` as `-`.
        raise BadHead("a header that imitates the body's framing")
    framing = _framing(fields, head.minor)
    if head.method == "CONNECT" and framing is not None:
        raise BadHead("CONNECT has no body")
    return framing or NO_BODY


def response_framing(method: str, head: ResponseHead) -> Framing:
    """:param method: of the request that it answers
    :raises BadHead: the length of the body is ambiguous
    """
    framing = _framing(head.fields, head.minor)
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return NO_BODY
    return UNTIL_CLOSE if framing is None else framing


def encode(first: str, headers: Headers, more: str = "") -> bytes:
    """:param more: whole lines, with their CRLF"""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"{first}\r\n{lines}{more}\r\n".encode("latin-1")


def wants_upgrade(head: Head) -> str | None:
    """The protocol, lower case, that the request wants to switch to."""
    upgrade = head.fields.get("upgrade")
    return upgrade.lower() if upgrade and "upgrade" in head.tokens("connection") else None


def wants_close(head: Head | ResponseHead) -> bool:
    """True when the connection ends with this message. A persistent HTTP/1.0 connection is not worth its rules."""
    return head.minor == 0 or ("connection" in head.fields and "close" in head.tokens("connection"))


def index(headers: Headers) -> dict[str, str]:
    fields = {name.lower(): value for name, value in headers}
    if len(fields) == len(headers):
        return fields
    fields.clear()
    for name, value in headers:
        lower = name.lower()
        fields[lower] = f"{fields[lower]}, {value}" if lower in fields else value
    return fields


def _split(block: str) -> Headers:
    headers = tuple(_LINE.findall(block))
    if len(headers) > MAX_HEADERS:
        raise BadHead(f"more than {MAX_HEADERS} headers", 431)
    return headers


def _framing(fields: dict[str, str], minor: int) -> Framing | None:
    coding = fields.get("transfer-encoding")
    length = fields.get("content-length")
    if coding is not None:
        if length is not None:
            raise BadHead("both Transfer-Encoding and Content-Length")
        if minor == 0:
            raise BadHead("Transfer-Encoding in HTTP/1.0")
        if coding.lower() != "chunked":
            raise BadHead("a transfer coding other than chunked")
        return CHUNKED
    if length is None:
        return None
    if not _LENGTH.fullmatch(length):
        raise BadHead("Content-Length is not one decimal number")
    return Framing("length", int(length)) if int(length) else NO_BODY


def _minor(version: str) -> int:
    minor = _MINORS.get(version)
    if minor is None:
        raise BadHead("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    return minor


def _diagnosis(data: bytes, first: str) -> BadHead:
    """What is wrong with a head that does not match, for the person who sent it."""
    if len(data) > MAX_HEAD:
        return BadHead(f"the head is longer than {MAX_HEAD} bytes", 431)
    bare = data.replace(b"\r\n", b"")
    if b"\n" in bare or b"\r" in bare:
        return BadHead("a CR or LF of its own in the head")
    if b"\0" in data:
        return BadHead("a NUL in the head")
    if b"\r\n " in data or b"\r\n\t" in data:
        return BadHead("a folded header line")
    if re.search(rb"\r\n[^\r:]*[ \t]:", data):
        return BadHead("a blank before a header's colon")
    return BadHead(f"malformed {first} or header")
