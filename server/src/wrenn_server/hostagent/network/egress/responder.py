"""The resolver of one sandbox: its rules send every DNS question here, whichever server it was meant for.

Where names decide, only allowed ones have addresses, and only addresses: other names do not exist (NXDOMAIN, which no
client asks a second time), other types are empty. Nothing hides in a TXT record then, and without HTTPS records no
client encrypts the server name that the proxy has to see.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import structlog
from dns.message import Message

from wrenn_server.hostagent.network.egress.given import LONGEST, Given
from wrenn_server.hostagent.network.egress.policy import Policy, canonical
from wrenn_server.hostagent.network.egress.resolver import PAYLOAD, Resolver, Unresolved

QUESTIONS = 64
"""Being answered at one time; more are dropped, and asked again by whoever cares. The kernel's rules bound their rate."""
CONNECTIONS = 16
IDLE = 10.0
"""Seconds that a TCP connection may wait for a question, or for its answer to be taken."""
MAX_QUESTION = 1024
"""Bytes. A name has 255 at most."""

_PROHIBITED = dns.edns.EDEOption(
    dns.edns.EDECode.PROHIBITED, "not allowed by the network rules of the sandbox"
)

log = structlog.get_logger()


class Responder:
    def __init__(self, policy: Callable[[], Policy], resolver: Resolver, given: Given) -> None:
        """:param policy: the one in force now"""
        self._policy, self._resolver, self._given = policy, resolver, given
        self._tasks = set[asyncio.Task[None]]()
        self._connections = 0

    @asynccontextmanager
    async def serving(self, udp: socket.socket, tcp: socket.socket) -> AsyncGenerator[None]:
        """:param udp, tcp: bound, and closed in the end"""
        loop = asyncio.get_running_loop()
        transport, datagrams = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        server = await asyncio.start_server(self._connected, sock=tcp, limit=MAX_QUESTION)
        try:
            yield
        finally:
            transport.abort()
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # The transport closes its socket in a later turn of the loop, however it is asked to.
            await datagrams.lost.wait()

    def asked(self, question: bytes, answered: Callable[[bytes], None]) -> None:
        """Over UDP."""
        if len(self._tasks) < QUESTIONS:
            self._spawn(self._by_datagram(question, answered))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="answer DNS")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _by_datagram(self, question: bytes, answered: Callable[[bytes], None]) -> None:
        query = _parsed(question)
        if query is not None:
            answer = await self.answer(query)
            answered(answer.to_wire(max_size=_room(query), prefer_truncation=True))

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        self._spawn(self._by_stream(reader, writer))

    async def _by_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (data := await self._framed(reader)) is not None:
                writer.write(len(data).to_bytes(2) + data)
                async with asyncio.timeout(IDLE):
                    await writer.drain()
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()
            self._connections -= 1

    async def _framed(self, reader: asyncio.StreamReader) -> bytes | None:
        """Reads one question and gives its answer; None: the client does not deserve another."""
        async with asyncio.timeout(IDLE):
            length = int.from_bytes(await reader.readexactly(2))
            query = _parsed(await reader.readexactly(length)) if length <= MAX_QUESTION else None
        if query is None:
            return None
        return (await self.answer(query)).to_wire(max_size=65535, prefer_truncation=True)

    async def answer(self, query: Message) -> Message:
        answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD)
        answer.set_rcode(_fault(query))
        if answer.rcode() != dns.rcode.NOERROR:
            return answer
        policy = self._policy()
        try:
            if not policy.closed:
                return await self._resolver.forward(query, policy.dns_servers)
            await self._by_rules(query, answer, policy)
        except Unresolved as error:
            log.info("a name could not be resolved", action="dns", error=str(error))
            answer.set_rcode(dns.rcode.SERVFAIL)
        return answer

    async def _by_rules(self, query: Message, answer: Message, policy: Policy) -> None:
        [question] = query.question
        name = canonical(question.name.to_text())
        if name is None or not policy.permits_name(name):
            # Without an SOA record, so that nobody remembers it: the rules may be others in a moment (RFC 2308 5).
            answer.set_rcode(dns.rcode.NXDOMAIN)
            if query.edns >= 0:
                answer.use_edns(0, payload=PAYLOAD, options=[_PROHIBITED])
            return
        if question.rdtype != dns.rdatatype.A:
            return
        addresses = await self._resolver.addresses(name, policy.dns_servers)
        answer.set_rcode(addresses.rcode)
        if addresses.found:
            ttl = min(addresses.ttl, LONGEST)
            self._given.note(name, addresses.found, ttl, asyncio.get_running_loop().time())
            answer.answer.append(
                dns.rrset.from_text_list(
                    question.name,
                    int(ttl),
                    dns.rdataclass.IN,
                    dns.rdatatype.A,
                    [*map(str, addresses.found)],
                )
            )


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._responder.asked(data, lambda answer: self._transport.sendto(answer, addr))


def _parsed(data: bytes) -> Message | None:
    """None: nothing that deserves an answer."""
    if len(data) > MAX_QUESTION:
        return None
    try:
        query = dns.message.from_wire(data)
    except dns.exception.DNSException:
        return None
    return None if query.flags & dns.flags.QR else query


def _fault(query: Message) -> dns.rcode.Rcode:
    if query.opcode() != dns.opcode.QUERY:
        return dns.rcode.NOTIMP
    if len(query.question) != 1 or query.question[0].rdclass != dns.rdataclass.IN:
        return dns.rcode.FORMERR
    if dns.rdatatype.is_metatype(query.question[0].rdtype):  # ANY, AXFR and the like
        return dns.rcode.NOTIMP
    return dns.rcode.NOERROR


def _room(query: Message) -> int:
    """Bytes that the client takes over UDP; never so many that the answer comes in fragments."""
    return min(max(512, query.payload), PAYLOAD) if query.edns >= 0 else 512
