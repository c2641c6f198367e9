"""The transparent proxy of one sandbox: its rules send what goes to the ports 80 and 443 here, unless the address is
allowed by itself.

A connection passes when its first bytes name an allowed host (TLS server name, HTTP Host) and it was meant for an
address of that very host: one that our resolver gave, or that the name has now. Neither an allowed name on the way to
another address nor an allowed address under another name is enough. The way out begins inside the sandbox's
namespace, so the platform's rules, the kernel's, hold for it as for the guest's own packets.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import structlog

from wrenn_server.edge.splice import splice
from wrenn_server.hostagent.network.egress import hello, web
from wrenn_server.hostagent.network.egress.given import Given
from wrenn_server.hostagent.network.egress.policy import Policy
from wrenn_server.hostagent.network.egress.resolver import MakeSocket, Resolver, Unresolved
from wrenn_server.wire.body import BadBody
from wrenn_server.wire.head import BadHead
from wrenn_server.wire.stream import Stream, adopt

CONNECTIONS = 128
"""At one time. Each may hold half a megabyte a direction while one end does not read."""
FIRST_WORDS = 10.0
"""Seconds from the connection's start until the host is known."""
DIAL = 10.0
LAST_WORDS = 300.0
"""Seconds for what is buffered at the end to be taken."""
MAX_HEAD = 16 * 1024

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h
_SOCKADDR_IN = struct.Struct("!2xH4s8x")

log = structlog.get_logger()


class Denied(Exception):
    """By the rules."""


class Proxy:
    def __init__(
        self, policy: Callable[[], Policy], resolver: Resolver, given: Given, make_socket: MakeSocket
    ) -> None:
        """:param policy: the one in force now
        :param make_socket: TCP, inside the sandbox's namespace"""
        self._policy, self._resolver, self._given, self._make_socket = policy, resolver, given, make_socket
        self._passages = dict[asyncio.Task[None], Passage]()

    @asynccontextmanager
    async def serving(self, listening: socket.socket) -> AsyncGenerator[None]:
        """:param listening: closed in the end, and every connection with it"""
        server = await asyncio.get_running_loop().create_server(lambda: _Client(self), sock=listening)
        try:
            yield
        finally:
            server.close()
            await self._end(list(self._passages))

    def came(self, client: Stream) -> None:
        if len(self._passages) >= CONNECTIONS:
            client.abort()
            return
        try:
            passage = Passage(client)
        except OSError:  # not redirected; the rules let nothing of the kind in
            client.abort()
            return
        task = asyncio.create_task(self._pass(passage), name="pass a connection on")
        self._passages[task] = passage
        task.add_done_callback(self._passages.pop)

    async def cut(self) -> None:
        """Ends the connections that the policy does not permit any more."""
        policy = self._policy()
        await self._end([task for task, passage in self._passages.items() if not passage.permitted(policy)])

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass(self, passage: "Passage") -> None:
        client = passage.client
        try:
            async with client:
                carry = await self._first_words(passage)
                async with await self._dial(passage) as server:
                    await carry(server)
                    async with asyncio.timeout(LAST_WORDS):
                        await _finish(client, server)
        except (Denied, hello.BadHello, BadHead, BadBody, Unresolved, OSError, TimeoutError) as error:
            log.debug("a connection ended", action="egress", name=passage.name, cause=str(error))
        except Exception:
            log.exception("passing a connection on failed", action="egress", name=passage.name)

    async def _first_words(self, passage: "Passage") -> "Carry":
        """Reads them, and decides; what carries the connection on is returned."""
        async with asyncio.timeout(FIRST_WORDS):
            if passage.port == 443:
                return await self._tls(passage)
            return await self._http(passage)

    async def _tls(self, passage: "Passage") -> "Carry":
        client, data = passage.client, b""
        try:
            while (name := hello.server_name(data)) is None:
                piece = await client.read()
                if not piece:
                    raise ConnectionResetError("the connection ended inside a ClientHello")
                data += piece
            await self._check(passage, name)
        except (Denied, hello.BadHello):
            await _say(client, hello.ACCESS_DENIED)
            raise

        async def carry(server: Stream) -> None:
            server.write(data)
            await splice(client, server)

        return carry

    async def _http(self, passage: "Passage") -> "Carry":
        client = passage.client
        try:
            data = await client.read_head(MAX_HEAD)
            if data is None:
                raise ConnectionResetError("the connection ended before a request")
            name, head, framing = web.parse(data)
            await self._check(passage, name)
        except (Denied, BadHead) as error:
            await _say(client, web.refusal(str(error)))
            raise
        return lambda server: web.relay(client, head, framing, server)

    async def _check(self, passage: "Passage", name: str) -> None:
        """:raises Denied: :raises Unresolved:"""
        passage.name = name  # from here on a change of the policy ends it
        policy = self._policy()
        if not passage.permitted(policy) or self._resolver.blocks(passage.address):
            raise Denied(f"the network rules of this sandbox do not allow {name}")
        if self._given.holds(name, passage.address, asyncio.get_running_loop().time()):
            return
        addresses = await self._resolver.addresses(name, policy.dns_servers)
        if passage.address not in addresses.found:
            raise Denied(f"{passage.address} is not an address of {name}")

    async def _dial(self, passage: "Passage") -> Stream:
        made = await self._make_socket()
        try:
            async with asyncio.timeout(DIAL):
                await asyncio.get_running_loop().sock_connect(made, (str(passage.address), passage.port))
            return await adopt(made)
        except BaseException:
            made.close()
            raise


Carry = Callable[[Stream], Awaitable[None]]


class Passage:
    """One connection of the guest.

    :ivar address, port: what the guest has meant
    :ivar name: of the host, once the guest has said it
    """

    def __init__(self, client: Stream) -> None:
        self.client = client
        original = client.transport.get_extra_info("socket").getsockopt(
            socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size
        )
        self.port, packed = _SOCKADDR_IN.unpack(original)
        self.address = IPv4Address(packed)
        self.name: str | None = None

    def permitted(self, policy: Policy) -> bool:
        if self.name is None:
            return True  # it is still being read
        return policy.permits(self.address) or (policy.closed and policy.permits_name(self.name))


class _Client(Stream):
    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._proxy.came(self)


async def _say(client: Stream, last_words: bytes) -> None:
    client.write(last_words)
    client.write_eof()
    await _hear_out(client)


async def _finish(client: Stream, server: Stream) -> None:
    await _hear_out(client)
    server.close()  # not before: the end of a stream closes the one that it is relayed to
    client.close()
    await server.wait_closed()
    await client.wait_closed()


async def _hear_out(client: Stream) -> None:
    """To its end, once ours is sent: a close with unread input would reset the connection, and what the kernel has not
    sent yet would be lost. Programs that send several requests at once, as apt does, leave such input."""
    while await client.read():
        pass
