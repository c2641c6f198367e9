"""Questions to resolvers: those that the sandbox's owner names, or else the host's.

The owner's are asked by sockets inside the sandbox's namespace, so that no rule is weaker for our packets than for
the guest's. The host's may be anywhere, also on the host itself, and are asked from there; but only what we have
made ourselves goes to them, never a guest's bytes.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from dns.message import Message, QueryMessage
from dns.rdata import Rdata
from dns.rdtypes.IN.A import A
from dns.rrset import RRset

from wrenn_server.hostagent.network.egress.given import MAX_ADDRESSES

RESOLV_CONF = Path("/etc/resolv.conf")
PATIENCE = 1.5
"""Seconds for one server to answer, before the next one is asked."""
ROUNDS = 2
MAX_SERVERS = 3
"""As libc has it; two rounds take 9 s then."""
PAYLOAD = 1232
"""Bytes of an answer over UDP: dnsflagday.net/2020."""

MakeSocket = Callable[[], Awaitable[socket.socket]]


class Unresolved(Exception):
    """No resolver gave a usable answer."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Of one name, without those that sandboxes do not reach."""

    found: tuple[IPv4Address, ...]
    ttl: float
    """Seconds."""
    rcode: dns.rcode.Rcode


class Resolver:
    def __init__(
        self,
        tcp: MakeSocket,
        udp: MakeSocket,
        blocked: Sequence[IPv4Network],
        resolv_conf: Path = RESOLV_CONF,
    ) -> None:
        """:param tcp, udp: make sockets inside the sandbox's namespace"""
        self._tcp, self._udp = tcp, udp
        self._blocked = blocked
        self._resolv_conf = resolv_conf

    async def addresses(self, name: str, servers: Sequence[IPv4Address]) -> Addresses:
        """:raises Unresolved:"""
        query = dns.message.make_query(f"{name}.", dns.rdatatype.A, use_edns=0, payload=PAYLOAD)
        response = await self._ask(query, servers)
        if response.rcode() != dns.rcode.NOERROR:
            return Addresses((), 0, response.rcode())
        try:
            chain = response.resolve_chaining()
        except dns.exception.DNSException as error:
            raise Unresolved(f"a malformed answer for {name}") from error
        records = _records(chain.answer) if chain.answer is not None else []
        found = [IPv4Address(record.address) for record in records if isinstance(record, A)]
        reached = [address for address in found if not self.blocks(address)]
        return Addresses(tuple(reached[:MAX_ADDRESSES]), chain.minimum_ttl, dns.rcode.NOERROR)

    async def forward(self, query: Message, servers: Sequence[IPv4Address]) -> Message:
        """The answer to the question of a guest, without addresses that sandboxes do not reach.

        :param query: has one question
        :raises Unresolved:"""
        [question] = query.question
        ours = dns.message.make_query(
            question.name,
            question.rdtype,
            use_edns=0,
            payload=PAYLOAD,
            want_dnssec=bool(query.ednsflags & dns.flags.DO),
        )
        ours.flags |= query.flags & (dns.flags.CD | dns.flags.AD)
        response = await self._ask(ours, servers)
        answer = dns.message.make_response(query, recursion_available=True)
        answer.set_rcode(response.rcode())
        answer.flags |= response.flags & dns.flags.AD
        answer.answer, answer.authority, answer.additional = map(self._without_blocked, response.sections[1:])
        return answer

    def blocks(self, address: IPv4Address) -> bool:
        return any(address in network for network in self._blocked)

    def _without_blocked(self, section: Iterable[RRset]) -> list[RRset]:
        kept = list[RRset]()
        for rrset in section:
            records = [record for record in _records(rrset) if not self._is_blocked(record)]
            if records:
                kept.append(dns.rrset.from_rdata_list(rrset.name, rrset.ttl, records))
        return kept

    def _is_blocked(self, record: Rdata) -> bool:
        return isinstance(record, A) and self.blocks(IPv4Address(record.address))

    async def _ask(self, query: Message, servers: Sequence[IPv4Address]) -> QueryMessage:
        """One server after the other, each twice.

        :raises Unresolved:"""
        inside = bool(servers)
        names = [*map(str, servers)] or nameservers(self._resolv_conf)
        last: Exception | None = None
        for name in names[:MAX_SERVERS] * ROUNDS:
            try:
                async with asyncio.timeout(PATIENCE):
                    response = await self._exchange(query, name, inside=inside)
            except (OSError, TimeoutError, EOFError, dns.exception.DNSException) as error:
                last = error
                continue
            if response.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                return response
            last = Unresolved(f"{name} answers {dns.rcode.to_text(response.rcode())}")
        raise Unresolved(
            f"none of {', '.join(names) or 'no resolvers'} answers {query.question[0]}"
        ) from last

    async def _exchange(self, query: Message, server: str, *, inside: bool) -> QueryMessage:
        loop = asyncio.get_running_loop()
        family, _, _, _, address = socket.getaddrinfo(server, 53, flags=socket.AI_NUMERICHOST)[0]
        data = query.to_wire()
        with await self._udp() if inside else _socket(family, socket.SOCK_DGRAM) as asked:
            await loop.sock_connect(asked, address)
            await loop.sock_sendall(asked, data)
            while True:
                response = _response(query, await loop.sock_recv(asked, 65535))
                if response is not None:
                    break
        if not response.flags & dns.flags.TC:
            return response
        with await self._tcp() if inside else _socket(family, socket.SOCK_STREAM) as asked:
            await loop.sock_connect(asked, address)
            await loop.sock_sendall(asked, len(data).to_bytes(2) + data)
            length = int.from_bytes(await _exactly(asked, 2))
            response = _response(query, await _exactly(asked, length))
        if response is None:
            raise dns.exception.FormError
        return response


def nameservers(resolv_conf: Path) -> list[str]:
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver"]


def _response(query: Message, data: bytes) -> QueryMessage | None:
    """None: the answer to some other question, or a forged one."""
    try:
        response = dns.message.from_wire(data, ignore_trailing=True)
    except dns.exception.DNSException:
        return None
    return response if isinstance(response, QueryMessage) and query.is_response(response) else None


def _records(rrset: RRset) -> list[Rdata]:
    return [*cast("Iterable[Rdata]", rrset)]


def _socket(family: int, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


async def _exactly(opened: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await asyncio.get_running_loop().sock_recv(opened, count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
