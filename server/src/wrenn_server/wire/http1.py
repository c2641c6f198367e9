"""A small bounded HTTP/1.1 client over a stream that is already connected.

No redirects, no decompression, no cookies, no pool: one connection, one request at a time. Every wait and size has
a limit, because the other end may be a hostile guest.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Self

import msgspec

from wrenn_server.wire.head import ResponseHead
from wrenn_server.wire.stream import Stream

Pairs = Iterable[tuple[str, str]]


class Broken(ConnectionError):
    """The connection ended before the response did, or what came is not HTTP/1.1."""


class TooMuch(Exception):
    """The response is longer than the caller's limit."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None waits for ever. Raised as TimeoutError."""

    head: float | None = 10.0
    """From the end of the request to the response's head."""
    idle: float | None = 60.0
    """Between two pieces of the response's body."""


class Response:
    """`status`, `headers` (`.get("content-type")`, lower case), then the body once: `read` or `aiter`."""

    head: ResponseHead

    @property
    def status(self) -> int:
        return self.head.status

    def header(self, name: str) -> str | None:
        return self.head.get(name)

    async def read(self, *, limit: int) -> bytes:
        """The whole body.

        :raises TooMuch: :raises Broken: :raises TimeoutError:
        """
        raise NotImplementedError

    def aiter(self, *, limit: int | None = None) -> AsyncIterator[bytes]:
        """Pieces as they arrive, none empty. Raises as `read` does."""
        raise NotImplementedError


class Connection:
    """
    ```python
    async with Connection(stream, host="sb…") as c:      # the stream is closed at the end
        response = await c.request("POST", "/init", headers=[…], body=b"{}")
        body = await response.read(limit=64 * 1024)
        # a next request may follow when c.reusable
    ```
    """

    def __init__(self, stream: Stream, *, host: str = "localhost", timeouts: Timeouts | None = None) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Aborts the stream unless the last response was read to its end; then closes it."""

    @property
    def reusable(self) -> bool:
        """True after a complete response that leaves the connection open."""
        raise NotImplementedError

    async def request(
        self, method: str, target: str, *, headers: Pairs = (), body: bytes | AsyncIterable[bytes] = b""
    ) -> Response:
        """Sends and waits for the response's head. An iterator is sent chunked, beside reading.

        :raises Broken: :raises TimeoutError: :raises ConnectionError:
        """
        raise NotImplementedError
