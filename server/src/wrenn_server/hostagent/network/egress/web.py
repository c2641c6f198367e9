"""The host that one HTTP/1.x request is for, and the request's way through: alone on its connection.

The next request of a kept-alive connection could be for another host of the same address; so there is none. The
server is asked to close after its answer, and nothing that the client sends behind its request goes any further.
"""

import asyncio
import re

from wrenn_server.edge.splice import splice
from wrenn_server.hostagent.network.egress.policy import canonical
from wrenn_server.wire.body import LAST_CHUNK, Body, chunk
from wrenn_server.wire.head import (
    BadHead,
    Framing,
    Head,
    ResponseHead,
    parse_request,
    parse_response,
    request_framing,
    wants_upgrade,
)
from wrenn_server.wire.stream import Stream

_ABSOLUTE = re.compile(r"http://([^/?#]*)(?:[/?].*)?", re.IGNORECASE)
_HOP = {"connection", "keep-alive", "proxy-connection", "te", "upgrade"}


def parse(data: bytes) -> tuple[str, Head, Framing]:
    """The canonical name of the host, and the rest.

    :raises BadHead: not one request for one host by its name"""
    head = parse_request(data)
    framing = request_framing(head)
    host = _name(head.get("host") or "")
    absolute = _ABSOLUTE.fullmatch(head.target)
    if host is None or head.method == "CONNECT" or (absolute and _name(absolute[1]) != host):
        raise BadHead("not for one host")
    if not absolute and not head.target.startswith("/") and head.target != "*":
        raise BadHead("the target is not a path")
    return host, head, framing


def refusal(why: str) -> bytes:
    body = f"{why}\n".encode("ascii", "replace")
    headers = (
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    )
    return ResponseHead.of(403, headers, "Forbidden").encode() + body


async def relay(client: Stream, head: Head, framing: Framing, server: Stream) -> None:
    """Returns when the answer is whole, or either side has broken off; nobody is closed.

    :raises ConnectionError, BadHead, BadBody:"""
    upgrade = wants_upgrade(head)
    if upgrade is None or "h2c" in upgrade or framing.kind != "none":
        server.write(_alone(head, ("Connection", "close")).encode())
    else:
        server.write(_alone(head, ("Connection", "Upgrade"), ("Upgrade", upgrade)).encode())
        answer = await server.read_head()
        client.write(answer or b"")
        if answer is not None and parse_response(answer).status == 101:
            await splice(client, server)
            return
    ended = asyncio.get_running_loop().create_future()

    def check() -> None:
        if not ended.done() and (server.eof or server.lost or client.lost):
            ended.set_result(None)

    client.on_end = server.on_end = check
    server.relay(client)
    check()
    sending = asyncio.create_task(_send(Body(client, framing), framing, server), name="send request body")
    try:
        await ended
    finally:
        sending.cancel()
        await asyncio.wait([sending])


async def _send(body: Body, framing: Framing, server: Stream) -> None:
    """A client that breaks off in its body is heard of by `client.lost`, or takes the answer that is left."""
    while not body.done:
        piece = await body.read()
        if framing.kind == "chunked":
            piece = (chunk(piece) if piece else b"") + (LAST_CHUNK if body.done else b"")
        server.write(piece)
        await server.drain()


def _name(authority: str) -> str | None:
    return canonical(authority.removesuffix(":80"))


def _alone(head: Head, *own: tuple[str, str]) -> Head:
    kept = [line for line in head.headers if line[0].lower() not in _HOP]
    return Head.of(head.method, head.target, [*kept, *own], head.minor)
