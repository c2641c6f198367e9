"""What rules mean, and which text they become."""

import contextlib
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.hostagent.network import rules
from wrenn_server.hostagent.network.egress.policy import (
    MAX_DNS_SERVERS,
    MAX_RULES,
    OPEN,
    Policy,
    canonical,
    parse,
)
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire.agent import Network

EVERYTHING = "0.0.0.0/0"
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: IPv4Network(pair, strict=False)
)


def policy(*, internet: bool = True, allow: list[str] | None = None, deny: list[str] | None = None) -> Policy:
    return parse(Network(internet=internet, allow_out=allow or [], deny_out=deny or []))


def test_without_rules_the_internet_is_open() -> None:
    assert parse(Network()) == OPEN
    assert OPEN.permits(IPv4Address("1.1.1.1"))
    assert not OPEN.by_name
    assert not OPEN.resolves


@pytest.mark.parametrize("deny", [[EVERYTHING], ["0.0.0.0/1", "128.0.0.0/1"], ["0.0.0.0/0", "::/0"]])
def test_to_deny_everything_is_to_have_no_internet(deny: list[str]) -> None:
    assert policy(deny=deny, allow=["1.1.1.1"]) == policy(internet=False, allow=["1.1.1.1"])


def test_allow_wins_over_deny() -> None:
    rules = policy(allow=["8.8.8.8"], deny=["8.8.0.0/16", "9.9.9.9"])
    assert rules.permits(IPv4Address("8.8.8.8"))
    assert not rules.permits(IPv4Address("8.8.4.4"))
    assert not rules.permits(IPv4Address("9.9.9.9"))
    assert rules.permits(IPv4Address("1.1.1.1"))


@given(st.booleans(), st.lists(networks, max_size=5), st.lists(networks, max_size=5), addresses)
def test_an_address_is_permitted_as_the_words_say(
    internet: bool, allow: list[IPv4Network], deny: list[IPv4Network], address: IPv4Address
) -> None:
    found = policy(internet=internet, allow=list(map(str, allow)), deny=list(map(str, deny)))
    allowed = any(address in network for network in allow)
    denied = not internet or any(address in network for network in deny)
    assert found.permits(address) == (allowed or not denied)


@given(st.lists(networks, max_size=8))
def test_sets_have_no_overlaps_which_nft_would_refuse(allow: list[IPv4Network]) -> None:
    found = policy(allow=list(map(str, allow))).allow
    assert not any(one.overlaps(other) for one in found for other in found if one is not other)


def test_names_are_compared_in_one_spelling() -> None:
    found = policy(internet=False, allow=["API.Example.ORG.", "*.Cdn.example.net"])
    assert found.by_name
    assert found.permits_name("api.example.org")
    assert not found.permits_name("example.org")
    assert not found.permits_name("x.api.example.org")
    assert found.permits_name("a.cdn.example.net")
    assert found.permits_name("a.b.cdn.example.net")
    assert not found.permits_name("cdn.example.net")
    assert not found.permits_name("evilcdn.example.net")
    assert not found.permits_name("cdn.example.net.evil.org")


def test_names_matter_only_where_everything_else_is_denied() -> None:
    found = policy(allow=["example.org"], deny=["1.2.3.4"])
    assert not found.by_name
    assert found.permits_name("anything.at.all")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".org", "a" * 63 + ".org"),
        ("localhost", "localhost"),
    ],
)
def test_host_names(written: str, meant: str) -> None:
    assert canonical(written) == meant


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a..b", "example.org..", "-a.org", "a-.org", "a" * 64 + ".org", "a." * 127 + "org", "1.2.3.4", "1.2.3",
        "[::1]", "::1", "a b.org", "a\0.org", "bücher.example", "exa\nmple.org", "example.org\n", "*.org", "0x7f.1",
    ],
)  # fmt: skip
def test_no_host_names(text: str) -> None:
    assert canonical(text) is None


@pytest.mark.parametrize(
    "network",
    [
        Network(allow_out=["1.2.3.4/33"]),
        Network(allow_out=["1.2.3"]),
        Network(allow_out=["01.2.3.4"]),
        Network(allow_out=["1.2.3.4/255.0.0.0"]),
        Network(allow_out=["256.1.1.1"]),
        Network(allow_out=["2606:4700::1111"]),
        Network(allow_out=["::ffff:1.2.3.4"]),
        Network(allow_out=["*"]),
        Network(allow_out=["a.*.org"]),
        Network(allow_out=["**.org"]),
        Network(allow_out=["https://example.org"]),
        Network(allow_out=["example.org:443"]),
        Network(allow_out=["1.1.1.1 } accept; ip daddr { 2.2.2.2"]),
        Network(allow_out=[""]),
        Network(deny_out=["example.org"]),
        Network(deny_out=["*"]),
        Network(dns_servers=["example.org"]),
        Network(dns_servers=["::1"]),
        Network(dns_servers=["127.0.0.53"]),
        Network(dns_servers=["169.254.169.254"]),
        Network(dns_servers=["10.0.0.2"]),
        Network(dns_servers=["9.9.9.9"] * (MAX_DNS_SERVERS + 1)),
        Network(allow_out=["1.1.1.1"] * (MAX_RULES + 1)),
        Network(deny_out=["1.1.1.1"] * (MAX_RULES + 1)),
    ],
    ids=repr,
)
def test_rules_that_nobody_can_understand_are_refused(network: Network) -> None:
    with pytest.raises(InvalidRequest):
        parse(network)


@given(st.text(max_size=40))
def test_whatever_is_written_is_understood_or_refused(text: str) -> None:
    for network in (Network(allow_out=[text]), Network(deny_out=[text]), Network(dns_servers=[text])):
        with contextlib.suppress(InvalidRequest):
            parse(network)


def test_the_chains_of_an_open_sandbox_say_nothing() -> None:
    assert rules.prepared(OPEN, "c1").splitlines() == [
        "add chain ip wrenn egress_c1",
        "add chain ip wrenn intercept_c1",
    ]


def test_the_chains_of_a_closed_sandbox_with_names() -> None:
    found = policy(internet=False, allow=["8.8.8.8", "1.2.0.0/16", "example.org"])
    assert rules.prepared(found, "c1").splitlines() == [
        "add chain ip wrenn egress_c1",
        "add rule ip wrenn egress_c1 ct original ip daddr { 1.2.0.0/16, 8.8.8.8/32 } return",
        "add rule ip wrenn egress_c1 goto refuse",
        "add chain ip wrenn intercept_c1",
        "add rule ip wrenn intercept_c1 meta l4proto { tcp, udp } th dport 53 counter redirect to :53",
        "add rule ip wrenn intercept_c1 ip daddr != { 1.2.0.0/16, 8.8.8.8/32 } ip daddr != @blocked4"
        " tcp dport { 80, 443 } counter redirect to :3129",
    ]


def test_the_chains_of_an_open_sandbox_with_exceptions() -> None:
    found = parse(Network(allow_out=["1.2.3.4"], deny_out=["1.2.0.0/16"], dns_servers=["9.9.9.9"]))
    assert rules.prepared(found, "c1").splitlines() == [
        "add chain ip wrenn egress_c1",
        "add rule ip wrenn egress_c1 ct original ip daddr { 1.2.3.4/32 } return",
        "add rule ip wrenn egress_c1 ct original ip daddr { 1.2.0.0/16 } goto refuse",
        "add chain ip wrenn intercept_c1",
        "add rule ip wrenn intercept_c1 meta l4proto { tcp, udp } th dport 53 counter redirect to :53",
    ]


def test_a_change_comes_into_force_without_any_rules_of_its_own() -> None:
    """They are there already; see `rules` for why."""
    assert rules.switched("c2", ["egress_c1", "intercept_c1"]).splitlines() == [
        "flush chain ip wrenn egress",
        "add rule ip wrenn egress goto egress_c2",
        "flush chain ip wrenn intercept",
        "add rule ip wrenn intercept goto intercept_c2",
        "flush chain ip wrenn egress_c1",
        "delete chain ip wrenn egress_c1",
        "flush chain ip wrenn intercept_c1",
        "delete chain ip wrenn intercept_c1",
    ]
    assert rules.of_changes(["input", "egress", "egress_c1", "refuse", "intercept", "intercept_c1"]) == [
        "egress_c1",
        "intercept_c1",
    ]


def test_names_are_no_business_of_the_kernel() -> None:
    one, other = (policy(internet=False, allow=[name]) for name in ("a.example", "*.b.example"))
    assert rules.alike(one, other)
    assert not rules.alike(one, policy(internet=False))
    assert not rules.alike(policy(), policy(internet=False))
