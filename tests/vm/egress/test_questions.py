"""The resolver of a sandbox whose rules have names, or resolvers of its owner."""

import socket

import dns.edns
import dns.flags
import dns.rcode
import pytest
from vm.egress.internet import ALLOWED, CDN, OTHER, RESOLVER, Internet, addresses, ask

from support.network_world import HOST_ADDRESS, Guest
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.egress import resolver
from wrenn_server.hostagent.network.egress.enforcer import Enforcer
from wrenn_server.hostagent.network.slots import Slots
from wrenn_server.wire.agent import Network


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("server", [RESOLVER, ALLOWED, "10.0.0.2"])
async def test_allowed_names_have_addresses_whoever_is_asked(
    internet: Internet, egress: Enforcer, guest: Guest, server: str, tcp: bool
) -> None:
    for name, found in (("allowed.example", ALLOWED), ("x.y.cdn.example", None), ("B.CDN.example.", CDN)):
        answer = await ask(guest, name, server=server, tcp=tcp)
        assert addresses(answer) == ([found] if found else [])
        assert answer.flags & dns.flags.RA
    assert internet.host_resolver.asked[0] == ("127.0.0.1", "allowed.example A")


async def test_other_names_do_not_exist_and_nobody_hears_of_them(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    for name in (
        "other.example",
        "cdn.example",
        "secret-data.attacker.example",
        "allowed.example.evil.org",
        ".",
    ):
        answer = await ask(guest, name)
        assert answer.rcode() == dns.rcode.NXDOMAIN
        assert not answer.authority  # nothing to remember it by
        [option] = answer.options
        assert isinstance(option, dns.edns.EDEOption)
        assert option.code == dns.edns.EDECode.PROHIBITED
    assert not internet.host_resolver.asked
    assert not internet.public_resolver.asked


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB", "TXT", "MX", "CNAME", "NS"])
async def test_names_have_nothing_but_addresses(
    internet: Internet, egress: Enforcer, guest: Guest, kind: str
) -> None:
    answer = await ask(guest, "allowed.example", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert not answer.answer
    assert not internet.host_resolver.asked


async def test_answers_into_blocked_ranges_are_left_out(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    assert addresses(await ask(guest, "rebound.example")) == []
    assert addresses(await ask(guest, "half.example")) == [ALLOWED]


async def test_what_a_resolver_says_comes_through(internet: Internet, egress: Enforcer, guest: Guest) -> None:
    assert (await ask(guest, "missing.example")).rcode() == dns.rcode.NXDOMAIN
    assert (await ask(guest, "empty.example")).rcode() == dns.rcode.NOERROR
    assert addresses(await ask(guest, "alias.example")) == [ALLOWED]
    many = await ask(guest, "many.example")  # too much for UDP between the resolvers
    assert len(addresses(many)) == 32
    assert (await ask(guest, "many.example", edns=-1)).flags & dns.flags.TC  # and too much for this client
    assert len(addresses(await ask(guest, "many.example", edns=-1, tcp=True))) == 32


async def test_questions_that_are_none_get_no_addresses(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    for kind in ("ANY", "AXFR"):
        assert (await ask(guest, "allowed.example", kind)).rcode() == dns.rcode.NOTIMP
    with await guest.udp_socket() as client:
        client.connect((RESOLVER, 53))
        for garbage in (b"", b"\0", bytes(12), b"\xff" * 40, bytes(600), bytes(1400)):
            client.send(garbage)
    assert addresses(await ask(guest, "allowed.example")) == [ALLOWED]


async def test_a_resolver_that_is_silent_is_named_by_a_failure(
    internet: Internet, egress: Enforcer, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "PATIENCE", 0.1)
    internet.host_resolver.silent = True
    assert (await ask(guest, "allowed.example")).rcode() == dns.rcode.SERVFAIL


async def test_resolvers_of_the_owner(internet: Internet, slots: Slots, slot: Slot, guest: Guest) -> None:
    """They are asked from inside, and all names of an open sandbox are answered, but for private addresses."""
    async with slots.enforcing(slot, Network(dns_servers=[RESOLVER])) as egress:
        assert addresses(await ask(guest, "other.example", server="9.9.9.9")) == [OTHER]
        assert addresses(await ask(guest, "half.example")) == [ALLOWED]
        assert (await ask(guest, "missing.example")).rcode() == dns.rcode.NXDOMAIN
        assert addresses(await ask(guest, "alias.example", "CNAME")) == ["allowed.example."]
        assert {sender for sender, _ in internet.public_resolver.asked} == {HOST_ADDRESS}
        assert not internet.host_resolver.asked
        await egress.apply(Network(internet=False, dns_servers=[RESOLVER]))
        assert (await ask(guest, "other.example")).rcode() == dns.rcode.NXDOMAIN
        await egress.apply(Network(dns_servers=[OTHER]))  # nobody answers there
        assert (await ask(guest, "other.example")).rcode() == dns.rcode.SERVFAIL


async def test_a_resolver_of_the_owner_cannot_be_the_host(
    internet: Internet, slots: Slots, slot: Slot, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is public: no list can tell. The packet begins in the namespace, so the host's rules hold."""
    monkeypatch.setattr(resolver, "PATIENCE", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as host:
        host.bind((HOST_ADDRESS, 53))
        async with slots.enforcing(slot, Network(dns_servers=[HOST_ADDRESS])):
            assert (await ask(guest, "other.example")).rcode() == dns.rcode.SERVFAIL
        with pytest.raises(BlockingIOError):
            host.recv(100)
