"""A small bounded HTTP/1.1 client over a stream that is already connected.

No redirects, no decompression, no cookies, no pool: one connection, one request at a time. Every wait and size has
a limit, because the other end may be a hostile guest.
"""

import asyncio
import contextlib
import ssl as tls
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Self

import msgspec

from wrenn_server.wire import problems
from wrenn_server.wire.body import LAST_CHUNK, BadBody, Body, chunk
from wrenn_server.wire.head import (
    MAX_HEAD,
    BadHead,
    Head,
    ResponseHead,
    parse_response,
    response_framing,
    wants_close,
)
from wrenn_server.wire.stream import Stream, connect_tcp, connect_unix

Pairs = Iterable[tuple[str, str]]

_MAX_INTERIM = 8  # of 100 Continue and its like before one response


class Broken(ConnectionError):
    """The connection ended before the response did, or what came is not HTTP/1.1."""


class TooMuch(Exception):
    """The response is longer than the caller's limit."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None waits for ever. Raised as TimeoutError."""

    head: float | None = 10.0
    """From the start of the request to the response's head."""
    idle: float | None = 60.0
    """Between two pieces of the response's body."""


class Response:
    """Head first, then the body once: `read` or `aiter`."""

    def __init__(self, head: ResponseHead, body: Body, idle: float | None) -> None:
        self.head = head
        self.body = body
        self._idle = idle

    @property
    def status(self) -> int:
        return self.head.status

    def header(self, name: str) -> str | None:
        """:param name: lower case"""
        return self.head.get(name)

    async def read(self, *, limit: int) -> bytes:
        """The whole body.

        :raises TooMuch: longer than limit
        :raises Broken: it did not arrive whole
        :raises TimeoutError: nothing came for `Timeouts.idle`
        """
        pieces = [piece async for piece in self.aiter(limit=limit)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def aiter(self, *, limit: int | None = None) -> AsyncIterator[bytes]:
        """Pieces as they arrive, none of them empty. Raises as `read` does."""
        try:
            while not self.body.done:
                piece = self.body.take()
                if not piece and not self.body.done:
                    async with asyncio.timeout(self._idle):
                        piece = await self.body.read()
                if limit is not None and self.body.received > limit:
                    raise TooMuch(f"a response of more than {limit} bytes")
                if piece:
                    yield piece
        except (ConnectionError, BadBody) as error:
            raise Broken(f"the response broke off after {self.body.received} bytes") from error


class Connection:
    """
    ```python
    async with Connection(stream, host="sb…") as c:      # the stream is closed at the end
        response = await c.request("POST", "/init", headers=[("Content-Type", "application/json")], body=b"{}")
        text = await response.read(limit=64 * 1024)
        # a next request may follow while c.reusable
    ```
    """

    def __init__(self, stream: Stream, *, host: str = "localhost", timeouts: Timeouts | None = None) -> None:
        self._stream = stream
        self._host = host
        self._timeouts = timeouts or Timeouts()
        self._body: Body | None = None
        self._last = False
        self._upload: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the stream; resets it when a response was not read to its end, so that the server notices."""
        whole = self._body is None or self._body.done
        await self._end_upload()
        if whole:
            self._stream.close()
        else:
            self._stream.abort()

    @property
    def reusable(self) -> bool:
        """The last response is complete and leaves the connection open."""
        uploaded = self._upload is None or self._upload.done()
        whole = self._body is None or self._body.done
        return (
            whole
            and uploaded
            and not (self._last or self._stream.eof or self._stream.lost or self._stream.buffered)
        )

    async def request(
        self, method: str, target: str, *, headers: Pairs = (), body: bytes | AsyncIterable[bytes] = b""
    ) -> Response:
        """Sends and waits for the response's head. An iterator is sent chunked, beside the reading.

        :raises Broken: the connection ended first, or what came is no response
        :raises TimeoutError: no head within `Timeouts.head`
        """
        lines = [("Host", self._host), ("Accept-Encoding", "identity"), *headers]
        self._last = True  # until the response's head says otherwise
        if not isinstance(body, bytes):
            lines.append(("Transfer-Encoding", "chunked"))
        elif body or method in ("POST", "PUT", "PATCH"):
            lines.append(("Content-Length", str(len(body))))
        head = Head.of(method, target, lines).encode()
        try:
            async with asyncio.timeout(self._timeouts.head):
                if isinstance(body, bytes):
                    self._stream.write(head + body)
                    await self._stream.drain()
                else:
                    self._stream.write(head)
                    self._upload = asyncio.create_task(self._send(body), name="http1 upload")
                response = await self._response(method)
        except BaseException as error:
            failed = await self._end_upload()
            self._stream.abort()
            if failed is not None and not isinstance(failed, ConnectionError):
                raise failed from error
            if isinstance(error, (ConnectionError, BadHead)):
                raise Broken(f"no response to {method} {target}: {error}") from error
            raise
        self._last = wants_close(response.head)
        self._body = response.body
        return response

    async def _response(self, method: str) -> Response:
        for _ in range(_MAX_INTERIM):
            data = await self._stream.read_head(MAX_HEAD)
            if data is None:
                raise Broken("the connection was closed")
            head = parse_response(data)
            if head.status >= 200:
                return Response(head, Body(self._stream, response_framing(method, head)), self._timeouts.idle)
        raise Broken("too many interim responses")

    async def _send(self, body: AsyncIterable[bytes]) -> None:
        try:
            async for piece in body:
                if piece:
                    self._stream.write(chunk(piece))
                    await self._stream.drain()
            self._stream.write(LAST_CHUNK)
        except ConnectionError:
            raise  # the reader of the response sees it as well
        except BaseException:
            self._stream.abort()  # a body that ends early must not look like a whole one
            raise

    async def _end_upload(self) -> BaseException | None:
        """What the upload failed with, if it did."""
        task, self._upload = self._upload, None
        if task is None:
            return None
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        return None if task.cancelled() else task.exception()


async def connect_tunnel(
    address: str,
    target: str,
    *,
    headers: Pairs = (),
    ssl: tls.SSLContext | None = None,
    server_hostname: str | None = None,
    timeout: float = 10.0,
) -> Stream:
    """Opens a byte tunnel through a host agent: `CONNECT target`.

    :param address: `HOST:PORT` (IPv6 in brackets) or the path of a Unix socket
    :param target: `{sandbox id}:{port}`
    :param timeout: seconds for connecting and the agent's answer together
    :raises WrennError: the agent refused; its problem decoded (code `port_not_open`, `sandbox_not_found`…)
    :raises OSError: the agent cannot be reached, or broke off
    :raises TimeoutError:
    """
    async with asyncio.timeout(timeout), contextlib.AsyncExitStack() as stack:
        if "/" in address:
            stream = await connect_unix(address)
        else:
            host, _, port = address.rpartition(":")
            stream = await connect_tcp(host.strip("[]"), int(port), ssl=ssl, server_hostname=server_hostname)
        await stack.enter_async_context(stream)
        stream.write(Head.of("CONNECT", target, [("Host", target), *headers]).encode())
        try:
            data = await stream.read_head(MAX_HEAD)
            if data is None:
                raise Broken(f"{address} closed the connection instead of opening a tunnel")
            head = parse_response(data)
            if head.status != 200:
                body = Response(head, Body(stream, response_framing("CONNECT", head)), timeout)
                raise problems.decode(head.status, await body.read(limit=64 * 1024))
        except (BadHead, TooMuch) as error:
            raise Broken(f"{address} does not speak HTTP/1.1") from error
        stack.pop_all()  # the tunnel is the caller's
        return stream
