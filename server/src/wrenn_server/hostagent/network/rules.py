"""What sandboxes may say to whom, as nftables text. Pure: no effect happens here.

Twice the same policy, so that a mistake in one place is not a hole: inside each sandbox's namespace, where every
packet of the guest arrives first, and in one table of the host.

- A guest speaks only as itself: its own MAC and address, IPv4 and ARP, nothing else on the wire.
- It reaches the public internet, but no private, link-local (cloud metadata), shared or multicast range, no mail
  relay, not the host, no other sandbox. So it uses public resolvers.
- Nobody opens a connection to it but sockets that the agent makes inside the namespace.
- Its own `Policy` only ever takes away from that. It is asked for each packet of both directions, so that a change
  also ends the connections which are no longer allowed.

A change of policy is prepared in chains of its own that nobody looks at yet, and then one transaction of jumps alone
makes them the ones in force: a packet is judged by the old rules or by the new ones. In one transaction with their
rules, interval sets are found empty for some microseconds (seen with Linux 6.18: 50 of 1,000,000 packets).
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from wrenn_server.hostagent.network.base import GUEST_ADDRESS, GUEST_MAC, TAP
from wrenn_server.hostagent.network.egress.policy import Policy
from wrenn_server.hostagent.network.ranges import BLOCKED

UPLINK = "veth0"
"""The namespace's end of the cable to the host."""

MAIL_PORTS = "25, 465, 587"
"""Spam from one sandbox gets the whole host's address listed."""

DNS_PORT, PROXY_PORT = 53, 3129
"""Of the agent's sockets inside the namespace. Only what was redirected to them gets there."""


def host_table_name(tag: str) -> str:
    return f"wrenn_{tag}"


def veth_prefix(tag: str) -> str:
    return f"wr{tag}v"


def namespace_ruleset(network: IPv4Network) -> str:
    """For a fresh namespace; the same text for all of them, with the policy `OPEN`.

    :param network: the agent's own range"""
    return f"""\
table netdev wrenn_guard {{
  chain from_guest {{
    type filter hook ingress device "{TAP}" priority -500; policy drop;
    ether saddr != {GUEST_MAC} counter drop
    ether type arp arp htype 1 arp ptype ip arp saddr ether {GUEST_MAC} arp saddr ip {GUEST_ADDRESS} \
limit rate 20/second burst 40 packets counter accept
    ether type ip ip saddr {GUEST_ADDRESS} counter accept
    counter drop
  }}
}}
table ip wrenn {{
{_blocked_set(network)}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "{TAP}" udp dport {DNS_PORT} ct status dnat limit rate 50/second burst 100 packets counter accept
    iifname "{TAP}" udp dport {DNS_PORT} counter drop
    ct state established,related counter accept
    iifname != "{TAP}" counter drop
    ct state new limit rate over 100/second burst 200 packets counter drop
    tcp dport {{ {DNS_PORT}, {PROXY_PORT} }} ct status dnat counter accept
    counter drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    jump egress
    ct state established,related counter accept
    iifname != "{TAP}" counter drop
    ip daddr @blocked4 counter reject with icmp type admin-prohibited
    tcp dport {{ {MAIL_PORTS} }} counter reject with icmp type admin-prohibited
    ct state new limit rate over 100/second burst 200 packets counter drop
    ct count over 1024 counter drop
    oifname "{UPLINK}" counter accept
    counter drop
  }}
  chain egress {{
  }}
  chain refuse {{
    ct state established meta l4proto tcp counter reject with tcp reset
    iifname != "{TAP}" counter drop
    counter reject with icmp type admin-prohibited
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "{UPLINK}" ip daddr @blocked4 counter reject with icmp type admin-prohibited
  }}
  chain dstnat {{
    type nat hook prerouting priority dstnat;
    iifname "{TAP}" jump intercept
  }}
  chain intercept {{
  }}
  chain srcnat {{
    type nat hook postrouting priority srcnat;
    oifname "{UPLINK}" masquerade
  }}
}}
table ip6 wrenn {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy drop;
  }}
  chain output {{
    type filter hook output priority raw; policy drop;
  }}
}}
"""


def alike(one: Policy, other: Policy) -> bool:
    """To the kernel."""
    return _chains(one) == _chains(other)


def prepared(policy: Policy, change: str) -> str:
    """Chains that hold the policy, not in force. In a namespace that has `namespace_ruleset`.

    :param change: a word that the namespace has not seen"""
    lines = list[str]()
    for chain, rules in _chains(policy).items():
        lines.append(f"add chain ip wrenn {chain}_{change}")
        lines += [f"add rule ip wrenn {chain}_{change} {rule}" for rule in rules]
    return _text(lines)


def switched(change: str, old: Iterable[str]) -> str:
    """What was prepared comes into force.

    :param old: chains of earlier changes, to be removed"""
    lines = list[str]()
    for chain in _CHAINS:
        lines += [f"flush chain ip wrenn {chain}", f"add rule ip wrenn {chain} goto {chain}_{change}"]
    for chain in old:
        lines += [f"flush chain ip wrenn {chain}", f"delete chain ip wrenn {chain}"]
    return _text(lines)


def of_changes(chains: Iterable[str]) -> list[str]:
    """Those of the table `ip wrenn` that changes have made."""
    return [chain for chain in chains if chain.startswith(tuple(f"{name}_" for name in _CHAINS))]


def host_ruleset(tag: str, network: IPv4Network) -> str:
    """The host's table, replaced as a whole when it exists. An `accept` here does not overrule another table's
    drop, so it only ever takes away."""
    table, ours = f"inet {host_table_name(tag)}", f'"{veth_prefix(tag)}*"'
    return f"""\
table {table}
delete table {table}
table {table} {{
{_blocked_set(network)}
  chain prerouting {{
    type filter hook prerouting priority raw;
    iifname {ours} ip saddr != {network} counter drop
    iifname {ours} meta nfproto != ipv4 counter drop
    iifname {ours} fib saddr . iif oif 0 counter drop
  }}
  chain input {{
    type filter hook input priority filter - 10;
    iifname {ours} counter drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10;
    iifname {ours} oifname {ours} counter drop
    iifname {ours} ip daddr @blocked4 counter drop
    oifname {ours} ct state established,related counter accept
    oifname {ours} counter drop
  }}
  chain srcnat {{
    type nat hook postrouting priority srcnat;
    ip saddr {network} oifname != {ours} masquerade
  }}
}}
"""


_CHAINS = ("egress", "intercept")


def _chains(policy: Policy) -> dict[str, list[str]]:
    return {"egress": [*_egress(policy)], "intercept": [*_intercept(policy)]}


def _egress(policy: Policy) -> Iterator[str]:
    """Refuses, or lets the packet go on to the platform's own rules. The original destination of its connection
    judges a packet, whichever way it goes; an ICMP error has that of the connection it is about."""
    if policy.allow:
        yield f"ct original ip daddr {_set(policy.allow)} return"
    if policy.closed:
        yield "goto refuse"
    elif policy.deny:
        yield f"ct original ip daddr {_set(policy.deny)} goto refuse"


def _intercept(policy: Policy) -> Iterator[str]:
    if policy.resolves:
        yield f"meta l4proto {{ tcp, udp }} th dport 53 counter redirect to :{DNS_PORT}"
    if policy.by_name:
        passing = f"ip daddr != {_set(policy.allow)} " if policy.allow else ""
        yield f"{passing}ip daddr != @blocked4 tcp dport {{ 80, 443 }} counter redirect to :{PROXY_PORT}"


def _set(networks: Iterable[IPv4Network]) -> str:
    return f"{{ {', '.join(map(str, networks))} }}"


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _blocked_set(network: IPv4Network) -> str:
    elements = ",\n      ".join(dict.fromkeys(map(str, (*BLOCKED, network))))
    return f"""\
  set blocked4 {{
    type ipv4_addr; flags interval; auto-merge;
    elements = {{
      {elements}
    }}
  }}"""
