"""Which names, addresses and devices belong to slot number n. Pure."""

import ipaddress

from wrenn_server.hostagent.network import rules
from wrenn_server.hostagent.network.base import (
    GATEWAY_ADDRESS,
    GATEWAY_MAC,
    GUEST_ADDRESS,
    GUEST_MAC,
    TAP,
    Slot,
)
from wrenn_server.linux.netlink import Namespace, Tap, Veth

SYSCTLS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv4/conf/all/rp_filter": "1",
    "ipv4/conf/default/rp_filter": "1",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/accept_source_route": "0",
    "ipv4/conf/default/accept_source_route": "0",
    "ipv4/ip_forward": "1",
    "ipv4/icmp_ratemask": "0",
}
"""Of every sandbox's namespace; it would otherwise inherit the host's. The mask: refusals are told to the guest at
once, however many, and none of them is taken from the number that the host may send a second."""

ADDRESSES_PER_SLOT = 4
"""A /30: its network, the host's end, the namespace's end, its broadcast."""


def namespace_prefix(tag: str) -> str:
    return f"wrenn-{tag}-"


def capacity(network: ipaddress.IPv4Network) -> int:
    return network.num_addresses // ADDRESSES_PER_SLOT


def slot(tag: str, uid_base: int, index: int) -> Slot:
    return Slot(
        index=index,
        name=f"{namespace_prefix(tag)}{index}",
        uid=uid_base + index,
        veth=f"{rules.veth_prefix(tag)}{index}",
    )


def addresses(network: ipaddress.IPv4Network, index: int) -> tuple[str, str]:
    """The host's and the namespace's end of the cable, with prefix length.

    :raises ValueError: the network has no such /30"""
    if not 0 <= index < capacity(network):
        raise ValueError(f"{network} has no room for slot {index}")
    first = network.network_address + index * ADDRESSES_PER_SLOT
    return f"{first + 1}/30", f"{first + 2}/30"


def namespace(slot: Slot, network: ipaddress.IPv4Network) -> Namespace:
    outside, inside = addresses(network, slot.index)
    return Namespace(
        name=slot.name,
        sysctls=SYSCTLS,
        tap=Tap(
            name=TAP,
            mac=GATEWAY_MAC,
            address=f"{GATEWAY_ADDRESS}/30",
            uid=slot.uid,
            gid=slot.uid,
            neighbour=(GUEST_ADDRESS, GUEST_MAC),
        ),
        veth=Veth(inside=rules.UPLINK, inside_address=inside, outside=slot.veth, outside_address=outside),
        ruleset=rules.namespace_ruleset(network),
    )
