"""What a program decides about one request: pass it to an upstream, answer it, or make it a tunnel.

The program's part is one function, `Route`: it sees the head (never the body) and gives a Target. The listener
does the rest: framing, streaming, time limits, reuse of connections, aborts in both directions.
"""

from collections.abc import Awaitable, Callable, Hashable

import msgspec

from wrenn_server.wire.head import Head, ResponseHead
from wrenn_server.wire.problems import Problem
from wrenn_server.wire.stream import Stream

Connect = Callable[[], Awaitable[Stream]]
"""Opens a new connection to the upstream.

Raises `Refused` to have that answer sent, `Again` to have the route asked once more, a WrennError to have its problem
sent, `ConnectionRefusedError` for a port that nobody listens on (retried when `retry_refused`), other `OSError` or
`TimeoutError` for the rest (503, 504).
Cancelled when the client goes away.
"""


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end of the client's connection."""

    host: str
    """IP address; empty for a Unix socket."""
    tls: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole response. Content-Length and Connection are added."""

    status: int
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    body: bytes = b""
    problem: Problem | None = None
    """Instead of a body: an error, which gets the request's id."""
    text: str = ""
    """The same for people: a browser that navigates gets a page with this text. Empty: it gets the body."""


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """Pass the request on and stream the response back."""

    connect: Connect
    key: Hashable | None = None
    """Connections of one key may serve each other's requests: `("api",)`, `(sandbox id, generation, port)`.
    None: a connection of its own for this request."""
    keep: float = 1.5
    """Seconds that an unused connection is kept; must be less than the upstream's own idle limit (gunicorn: 2 s)."""
    group: Hashable | None = None
    """`Listener.abort(group)` ends it, e.g. the sandbox id."""
    rewrite: Callable[[Head], Head] | None = None
    """Applied to the request's head; framing and hop-by-hop headers are the listener's own business."""
    rewrite_response: Callable[[ResponseHead], ResponseHead] | None = None
    upgrade: bool = True
    """Pass `Upgrade` on (never to h2c); a 101 makes the rest raw bytes. Without it the header is dropped."""
    retry_refused: bool = False
    """Retry ConnectionRefusedError within about one second: a server in the sandbox may be just starting."""
    refused: Answer | None = None
    """Sent when the connection stays refused."""
    broken: Answer | None = None
    """Sent when connecting fails otherwise, or the upstream dies before it answers."""


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """For CONNECT only: answer 200, then raw bytes both ways. The fields are those of `Upstream`."""

    connect: Connect
    group: Hashable | None = None
    retry_refused: bool = False
    refused: Answer | None = None
    broken: Answer | None = None


Target = Upstream | Answer | Tunnel
Route = Callable[[Head, Peer], Awaitable[Target]]
"""May wait (wake a sandbox, look up a host); is cancelled when the client goes away. May raise `Refused` or
a WrennError."""


class Refused(Exception):
    """Raised by Connect or Route: send this answer instead."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}")
        self.answer = answer


class Again(Exception):
    """Raised by Connect: the route's answer is out of date, ask it once more."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    connections: int = 10_000
    head: float = 10.0
    """From the first byte of a head to its last; for the first request from the connection's start."""
    idle: float = 320.0
    """Between two requests of a connection; longer than the 300 s that E2B's SDKs keep one, so that they close first."""
    connect: float = 10.0
    """To open a connection to an upstream, retries included."""
    silence: float = 3600.0
    """Without a byte from either side during an exchange. TCP keep-alive finds dead peers earlier."""
    grace: float = 10.0
    """For requests to finish when the listener stops."""


class Exchange(msgspec.Struct, kw_only=True):
    """One finished request, for logs and metrics."""

    method: str
    target: str
    peer: Peer
    request_id: str
    to: Target
    status: int
    """0: aborted before a response began."""
    aborted: bool
    """The response did not arrive whole, or the client left."""
    seconds: float
    """From the complete head to the end."""
    received: int
    """Bytes of the request's body, or from the client of a spliced connection."""
    sent: int
    """Bytes of the response's body, or to the client of a spliced connection."""
