"""The resolver of a sandbox, before a resolver that a test plays."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.hostagent.network.egress.given import MAX_ADDRESSES, MAX_NAMES, Given
from wrenn_server.hostagent.network.egress.policy import Policy
from wrenn_server.hostagent.network.egress.resolver import Addresses, Resolver
from wrenn_server.hostagent.network.egress.responder import QUESTIONS, Responder

CLOSED = Policy(closed=True, names=frozenset({"allowed.example"}))
ADDRESS = IPv4Address("1.1.1.1")


class Played:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asked = 0

    async def addresses(self, name: str, servers: Sequence[IPv4Address]) -> Addresses:
        self.asked += 1
        await self.go.wait()
        return Addresses((ADDRESS,), 60, dns.rcode.NOERROR)


def responder(played: Played | None = None) -> Responder:
    return Responder(lambda: CLOSED, cast("Resolver", played or Played()), Given())


def ask(data: bytes) -> list[bytes]:
    async def run() -> list[bytes]:
        answers = list[bytes]()
        asked = responder()
        asked.asked(data, answers.append)
        await asyncio.gather(*asked._tasks)
        return answers

    return asyncio.run(run())


def test_an_answer_that_fits() -> None:
    query = dns.message.make_query("allowed.example", "A")
    [data] = ask(query.to_wire())
    answer = dns.message.from_wire(data)
    assert query.is_response(answer)
    assert [rrset.to_text() for rrset in answer.answer] == ["allowed.example. 60 IN A 1.1.1.1"]


def test_an_answer_is_not_answered() -> None:
    """Two resolvers would never stop."""
    query = dns.message.make_query("allowed.example", "A")
    assert ask(dns.message.make_response(query).to_wire()) == []


@given(st.binary(max_size=300))
def test_no_bytes_break_it(data: bytes) -> None:
    check(data)


QUERY = dns.message.make_query("allowed.example", "A", use_edns=0, payload=4096).to_wire()


@given(
    st.lists(st.tuples(st.integers(0, len(QUERY) - 1), st.integers(0, 255)), max_size=5),
    st.binary(max_size=20),
)
def test_no_change_to_a_question_breaks_it(changes: list[tuple[int, int]], more: bytes) -> None:
    data = bytearray(QUERY)
    for at, value in changes:
        data[at] = value
    check(bytes(data) + more)


def check(data: bytes) -> None:
    for answer in ask(data):
        assert len(answer) <= 1232
        assert answer[:2] == data[:2]
        parsed = dns.message.from_wire(answer)
        assert parsed.flags & dns.flags.QR
        if parsed.answer:
            assert parsed.answer[0].name == dns.name.from_text("allowed.example")


async def test_questions_beyond_the_bound_are_dropped() -> None:
    played = Played()
    played.go.clear()
    asked, answers = responder(played), list[bytes]()
    for _ in range(QUESTIONS + 10):
        asked.asked(QUERY, answers.append)
    await asyncio.sleep(0)
    assert played.asked == QUESTIONS
    played.go.set()
    await asyncio.gather(*asked._tasks)
    assert len(answers) == QUESTIONS


async def test_its_sockets_are_closed_when_it_ends() -> None:
    """Whoever takes the slot next listens at the same address."""
    udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
    for sock in (udp, tcp):
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
    address = udp.getsockname()
    async with responder().serving(udp, tcp):
        pass
    with socket.socket(type=socket.SOCK_DGRAM) as after:
        after.bind(address)


def test_what_was_given_is_remembered_for_its_time() -> None:
    given = Given()
    given.note("a", [ADDRESS], ttl=1, now=0)
    given.note("b", [ADDRESS], ttl=10**9, now=0)
    assert given.holds("a", ADDRESS, 299)
    assert not given.holds("a", ADDRESS, 300)
    assert given.holds("b", ADDRESS, 3599)
    assert not given.holds("b", ADDRESS, 3600)
    assert not given.holds("c", ADDRESS, 0)
    assert not given.holds("a", IPv4Address("1.1.1.2"), 0)


def test_what_is_remembered_is_bounded() -> None:
    given = Given()
    for number in range(MAX_NAMES + 1):
        given.note(f"n{number}", [ADDRESS], 60, 0)
    for number in range(MAX_ADDRESSES + 1):
        given.note("many", [IPv4Address(number)], 60, 0)
    assert not given.holds("n0", ADDRESS, 0)
    assert given.holds(f"n{MAX_NAMES}", ADDRESS, 0)
    assert not given.holds("many", IPv4Address(0), 0)
    assert given.holds("many", IPv4Address(MAX_ADDRESSES), 0)
    assert len(given._names) == MAX_NAMES
