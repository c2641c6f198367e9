"""One public listener: accepts, bounds, and ends client connections. `Connection` serves each of them."""

import asyncio
import contextlib
import os
import ssl as tls
from collections.abc import Callable, Hashable
from typing import Self, cast

from wrenn_server.edge import answers
from wrenn_server.edge.connection import Connection, Service
from wrenn_server.edge.pool import Pool
from wrenn_server.edge.target import Exchange, Limits, Peer, Route
from wrenn_server.model.ids import new_request_id
from wrenn_server.wire.head import ResponseHead
from wrenn_server.wire.stream import Stream

_BACKLOG = 1024
_SWEEP = 1.0  # seconds between looks at the deadlines; shorter when a limit is short


class Listener:
    """
    ```python
    async with Listener("0.0.0.0:8000", route, ssl=context) as listener:
        listener.address            # "0.0.0.0:8000", the real port when 0 was asked for
        listener.abort(sandbox_id)  # every exchange and idle connection of that group: RST on both sides, now
        await stopped.wait()
    # left: no new connections, requests in flight finish within limits.grace
    ```

    :param address: `HOST:PORT` (IPv6 in brackets, no host for all interfaces) or the path of a Unix socket
    :param trusted: peers that are our own programs or our reverse proxy, True for all: their X-Request-Id and
        X-Forwarded-* are kept
    :param reuse_port: SO_REUSEPORT, for several worker processes on one port
    :param observe: called with every finished exchange; must be quick and not raise
    :param moving: likewise, with the target of every unfinished one that has moved bytes, about once a second
    """

    def __init__(
        self,
        address: str,
        route: Route,
        *,
        ssl: tls.SSLContext | None = None,
        limits: Limits | None = None,
        trusted: bool | Callable[[Peer], bool] = False,
        reuse_port: bool = False,
        observe: Callable[[Exchange], None] | None = None,
        moving: Callable[[str], None] | None = None,
    ) -> None:
        self.address = address
        self.connections: set[Connection] = set()
        self._ssl = ssl
        self._reuse_port = reuse_port
        self._pool = Pool()
        self._service = Service(
            route=route,
            limits=limits or Limits(),
            pool=self._pool,
            trusted=trusted if callable(trusted) else lambda _: trusted,
            observe=observe,
            moving=moving,
        )
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """:raises OSError: the address cannot be bound"""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._pool.close)
            server = await self._bind()
            stack.push_async_callback(self._stop, server)
            sweep = asyncio.create_task(self._sweep(), name="edge sweep")
            stack.callback(sweep.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def abort(self, group: Hashable) -> None:
        """Resets every connection to upstreams of the group; their clients' responses and tunnels end cut off."""
        self._pool.abort(group)

    async def _bind(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        handshake = 10.0 if self._ssl is not None else None
        if "/" in self.address:
            return await loop.create_unix_server(
                self._accept, self.address, ssl=self._ssl, ssl_handshake_timeout=handshake, backlog=_BACKLOG
            )
        host, _, port = self.address.rpartition(":")
        server = await loop.create_server(
            self._accept,
            host.strip("[]") or None,
            int(port),
            ssl=self._ssl,
            ssl_handshake_timeout=handshake,
            backlog=_BACKLOG,
            reuse_port=self._reuse_port or None,
        )
        self.address = f"{host}:{server.sockets[0].getsockname()[1]}"
        return server

    def _accept(self) -> Stream:
        return _Accepted(self)

    def connected(self, stream: Stream) -> None:
        if self._service.stopping:
            stream.abort()
            return
        if len(self.connections) >= self._service.limits.connections:
            busy = answers.problem(503, "overloaded", "too many connections", retryable=True)
            busy = answers.numbered(busy, new_request_id())
            lines = (*busy.headers, ("Content-Length", str(len(busy.body))), ("Connection", "close"))
            stream.write(ResponseHead(lines, {}, 503, answers.reason(503)).encode() + busy.body)
            stream.close()
            return
        connection = Connection(self._service, stream, _peer(stream))
        self.connections.add(connection)
        connection.task.add_done_callback(lambda _: self.connections.discard(connection))

    async def _sweep(self) -> None:
        limits = self._service.limits
        interval = min(_SWEEP, limits.head / 4, limits.idle / 4, limits.silence / 4)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(interval)
            now = loop.time()
            for connection in list(self.connections):
                connection.expire(now)
            self._pool.expire(now)

    async def _stop(self, server: asyncio.Server) -> None:
        self._service.stopping = True
        server.close()
        for connection in self.connections:
            connection.stop()
        tasks = [connection.task for connection in self.connections]
        if tasks:
            await asyncio.wait(tasks, timeout=self._service.limits.grace)
        late = [task for task in tasks if not task.done()]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        if "/" in self.address:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)


class _Accepted(Stream):
    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.connected(self)


def _peer(stream: Stream) -> Peer:
    name: object = stream.transport.get_extra_info("peername")
    host = str(cast("tuple[object, ...]", name)[0]) if isinstance(name, tuple) else ""
    return Peer(host.removeprefix("::ffff:"), stream.transport.get_extra_info("sslcontext") is not None)
