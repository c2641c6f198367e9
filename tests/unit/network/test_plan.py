"""Names, addresses and rules of slots."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.hostagent.network import plan, rules

GOLDEN = Path(__file__).parent
NETWORK = ipaddress.IPv4Network("10.213.0.0/16")

networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 30)).map(
    lambda pair: ipaddress.IPv4Network(pair, strict=False)
)


@given(networks, st.data())
def test_every_slot_has_its_own_pair_of_addresses(
    network: ipaddress.IPv4Network, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, plan.capacity(network) - 1))
    outside, inside = map(ipaddress.IPv4Interface, plan.addresses(network, index))

    assert outside.network == inside.network
    assert outside.network.subnet_of(network)
    assert list(outside.network.hosts()) == [outside.ip, inside.ip]
    assert int(outside.network.network_address) == int(network.network_address) + 4 * index


@given(networks, st.integers(-(2**33), 2**33))
def test_a_slot_beyond_the_network_has_no_address(network: ipaddress.IPv4Network, index: int) -> None:
    if 0 <= index < plan.capacity(network):
        plan.addresses(network, index)
    else:
        with pytest.raises(ValueError, match="no room"):
            plan.addresses(network, index)


def test_names_fit_into_the_kernels_limit() -> None:
    slot = plan.slot("1a2b", 20000, 16383)

    assert (slot.name, slot.veth, slot.uid) == ("wrenn-1a2b-16383", "wr1a2bv16383", 36383)
    assert len(slot.veth) < 16  # IFNAMSIZ with its final zero


def test_inside_everything_but_the_cable_is_the_same_for_all() -> None:
    first, second = (plan.namespace(plan.slot("1a2b", 20000, index), NETWORK) for index in (0, 1))

    assert first.ruleset == second.ruleset
    assert (first.tap.mac, first.tap.address) == (second.tap.mac, second.tap.address)
    assert first.tap.uid != second.tap.uid
    assert (second.veth.outside_address, second.veth.inside_address) == ("10.213.0.5/30", "10.213.0.6/30")
    assert second.veth.gateway == "10.213.0.5"


def test_rules_of_the_namespace_are_these() -> None:
    assert rules.namespace_ruleset(NETWORK) == (GOLDEN / "namespace.nft").read_text()


def test_rules_of_the_host_are_these() -> None:
    assert rules.host_ruleset("1a2b", NETWORK) == (GOLDEN / "host.nft").read_text()


def test_the_agents_own_range_is_blocked_wherever_it_lies() -> None:
    public = ipaddress.IPv4Network("44.0.0.0/16")

    assert "44.0.0.0/16" in rules.namespace_ruleset(public)
    assert "44.0.0.0/16" in rules.host_ruleset("1a2b", public)
