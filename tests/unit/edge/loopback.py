"""Real sockets on loopback: a listener under test, upstreams whose every byte a test decides, raw clients."""

import asyncio
import ssl as tls
from collections.abc import Callable
from contextlib import AsyncExitStack

from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Exchange, Limits, Peer, Route, Target, Upstream
from wrenn_server.wire.head import Head
from wrenn_server.wire.stream import Stream, connect_tcp


class Server:
    """An upstream: each connection comes out of `accept`, and the test plays the server's part on it."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.dialled: list[Stream] = []
        self.taken: list[Stream] = []

    def take(self) -> Stream:
        server = self

        class Accepted(Stream):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                server.accepted += 1
                server.taken.append(self)
                server._streams.put_nowait(self)

        return Accepted()

    async def accept(self) -> Stream:
        async with asyncio.timeout(5):
            return await self.next()

    async def next(self) -> Stream:
        return await self._streams.get()

    async def dial(self) -> Stream:
        stream = await connect_tcp("127.0.0.1", self.port)
        self.dialled.append(stream)
        return stream

    @property
    def open(self) -> int:
        """Connections to it that the edge has not given up."""
        return sum(not stream.lost for stream in self.dialled)


class World:
    """What a test builds; everything ends with it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.exchanges: list[Exchange] = []

    async def server(self) -> Server:
        server = Server()
        self._stack.push_async_callback(ended, server)
        listening = await asyncio.get_running_loop().create_server(server.take, "127.0.0.1", 0)
        self._stack.callback(listening.close)
        server.port = listening.sockets[0].getsockname()[1]
        return server

    async def listener(
        self,
        route: Route | Target,
        limits: Limits | None = None,
        address: str = "127.0.0.1:0",
        ssl: tls.SSLContext | None = None,
    ) -> Listener:
        async def fixed(head: Head, peer: Peer) -> Target:
            assert isinstance(route, Target)
            return route

        chosen = fixed if isinstance(route, Target) else route
        listener = Listener(address, chosen, limits=limits, ssl=ssl, observe=self.exchanges.append)
        return await self._stack.enter_async_context(listener)

    async def client(self, listener: Listener, data: bytes = b"") -> Stream:
        host, _, port = listener.address.rpartition(":")
        stream = await connect_tcp(host, int(port))
        self._stack.push_async_exit(stream)
        stream.write(data)
        return stream

    async def pair(self, limits: Limits | None = None, **options: object) -> tuple[Listener, Server]:
        """A listener that sends everything to one server."""
        server = await self.server()
        upstream = Upstream(connect=server.dial, **options)  # pyright: ignore[reportArgumentType]  # any of its fields
        return await self.listener(upstream, limits), server


async def ended(server: Server) -> None:
    for stream in [*server.taken, *server.dialled]:
        stream.abort()
        await stream.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """For what only the event loop brings about: lets it turn until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # conditions of many kinds, none of which has an event
            await asyncio.sleep(0.001)


async def exactly(stream: Stream, count: int) -> bytes:
    async with asyncio.timeout(5):
        data = bytearray()
        while len(data) < count:
            piece = await stream.read()
            assert piece, f"ended after {bytes(data)!r}"
            data += piece
        stream.unread(bytes(data[count:]))
        return bytes(data[:count])


async def to_end(stream: Stream) -> bytes:
    """Everything up to FIN. :raises ConnectionError: reset instead."""
    async with asyncio.timeout(10):
        data = bytearray()
        while piece := await stream.read():
            data += piece
        return bytes(data)


async def head_of(stream: Stream) -> bytes:
    async with asyncio.timeout(5):
        head = await stream.read_head()
        assert head is not None, "closed without a head"
        return head
