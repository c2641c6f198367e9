"""What a proxy does to heads: a request's on the way in, a response's on the way back (RFC 9110 7.6, RFC 9112).

Pure. Everything about the hop between client and edge ends here, so that no header of the client can act on the hop
between edge and upstream.
"""

import random
import re

from wrenn_server.edge.target import Peer
from wrenn_server.wire.head import BadHead, Framing, Head, Headers, ResponseHead, encode

_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
_NOT_NAMED = frozenset({"host", "content-length", "x-request-id"})
"""`Connection: host` must not take away what framing and routing stand on."""
_REQUEST_ID_NAME = frozenset({"x-request-id"})
_CLAIMED = _REQUEST_ID_NAME | {
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "x-real-ip",
}
"""What only a peer that we trust may say."""
_CHUNKED = "Transfer-Encoding: chunked\r\n"
_CLOSE = "Connection: close\r\n"
_HOST = re.compile(r"[A-Za-z0-9.\-_]*(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?", re.ASCII)
_AUTHORITY = re.compile(r"[A-Za-z0-9.\-_]+:[0-9]{1,5}", re.ASCII)
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)


def admitted(head: Head, peer: Peer, *, trusted: bool) -> Head:
    """The request as routes see it: origin-form target, one good Host, X-Request-Id and X-Forwarded-* that are true.

    :param trusted: the peer is a proxy or program of ours: its X-Request-Id and X-Forwarded-* are kept
    :raises BadHead: no or several hosts, or a target that fits neither method nor host
    """
    host = head.fields.get("host")
    if host is None:
        if head.minor:
            raise BadHead("no Host")
        host = ""
    if not _HOST.fullmatch(host):
        raise BadHead("Host is not one host name or address")
    target = _target(head, host)
    request_id = head.fields.get("x-request-id") if trusted else None
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        request_id = f"req_{random.getrandbits(80):020x}"
    scheme = "https" if peer.tls else "http"
    if not trusted and peer.host and _CLAIMED.isdisjoint(head.fields):  # nearly always
        headers = (
            *head.headers,
            ("X-Request-Id", request_id),
            ("X-Forwarded-For", peer.host),
            ("X-Forwarded-Proto", scheme),
            ("X-Forwarded-Host", host),
        )
        fields = {
            **head.fields,
            "x-request-id": request_id,
            "x-forwarded-for": peer.host,
            "x-forwarded-proto": scheme,
            "x-forwarded-host": host,
        }
        return Head(headers, fields, head.method, target, head.minor)
    kept = [*_without(head.headers, _REQUEST_ID_NAME if trusted else _CLAIMED), ("X-Request-Id", request_id)]
    if peer.host:
        if not trusted:
            kept.append(("X-Forwarded-For", peer.host))
        if not trusted or "x-forwarded-proto" not in head.fields:
            kept.append(("X-Forwarded-Proto", scheme))
        if not trusted or "x-forwarded-host" not in head.fields:
            kept.append(("X-Forwarded-Host", host))
    return Head.of(head.method, target, kept, head.minor)


def is_navigation(head: Head) -> bool:
    """A browser goes to a page, and a person will read the answer.

    Browsers say so with `Sec-Fetch-Mode` (Fetch Metadata), but only to origins that they trust; to plain HTTP they send
    `Upgrade-Insecure-Requests` with navigations.
    """
    if head.method not in ("GET", "HEAD") or "text/html" not in head.fields.get("accept", ""):
        return False
    mode = head.fields.get("sec-fetch-mode")
    return mode == "navigate" if mode else head.fields.get("upgrade-insecure-requests") == "1"


def outgoing(head: Head, framing: Framing, *, upgrade: str | None, reusable: bool) -> bytes:
    """The bytes for the upstream: without what belongs to the hop from the client, plus our own hop's headers."""
    own = _CHUNKED if framing.kind == "chunked" else ""
    if upgrade:
        own += f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n"
    elif not reusable:
        own += _CLOSE
    return encode(f"{head.method} {head.target} HTTP/1.1", _end_to_end(head), own)


def delivered(head: ResponseHead, *, chunked: bool, close: bool) -> bytes:
    """The bytes for the client: without what belongs to the hop to the upstream, plus the framing that the client gets."""
    own = (_CHUNKED if chunked else "") + (_CLOSE if close else "")
    return encode(f"HTTP/1.1 {head.status} {head.reason}", _end_to_end(head), own)


def switched(head: ResponseHead) -> bytes:
    """101 for the client."""
    own = f"Connection: Upgrade\r\nUpgrade: {head.fields.get('upgrade', '')}\r\n"
    return encode(f"HTTP/1.1 101 {head.reason}", _end_to_end(head), own)


def _target(head: Head, host: str) -> str:
    target = head.target
    if head.method == "CONNECT":
        if not _AUTHORITY.fullmatch(target):
            raise BadHead("the target of CONNECT is not HOST:PORT")
        return target
    if target.startswith("/") or (target == "*" and head.method == "OPTIONS"):
        return target
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise BadHead("the target is not a path")
    if match[1].lower() != host.lower():
        raise BadHead("the target's host is not the Host")
    path = match[2]
    return path if path.startswith("/") else f"/{path}"


def _end_to_end(head: Head | ResponseHead) -> Headers:
    fields = head.fields
    if _HOP.isdisjoint(fields):
        return head.headers
    named = head.tokens("connection") - _NOT_NAMED if "connection" in fields else frozenset[str]()
    return _without(head.headers, _HOP | named if named - {"close", "keep-alive"} else _HOP)


def _without(headers: Headers, names: frozenset[str] | set[str]) -> Headers:
    return tuple([line for line in headers if line[0].lower() not in names])
