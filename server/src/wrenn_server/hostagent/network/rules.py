"""What sandboxes may say to whom, as nftables text. Pure: no effect happens here.

Twice the same policy, so that a mistake in one place is not a hole: inside each sandbox's namespace, where every
packet of the guest arrives first, and in one table of the host.

- A guest speaks only as itself: its own MAC and address, IPv4 and ARP, nothing else on the wire.
- It reaches the public internet, but no private, link-local (cloud metadata), shared or multicast range, no mail
  relay, not the host, no other sandbox. So it uses public resolvers.
- Nobody opens a connection to it but sockets that the agent makes inside the namespace.
"""

import ipaddress

from wrenn_server.hostagent.network.base import GUEST_ADDRESS, GUEST_MAC, TAP

UPLINK = "veth0"
"""The namespace's end of the cable to the host."""

BLOCKED = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
)
"""Not for sandboxes: the special-purpose ranges of RFC 6890, multicast and reserved space."""

MAIL_PORTS = "25, 465, 587"
"""Spam from one sandbox gets the whole host's address listed."""


def host_table_name(tag: str) -> str:
    return f"wrenn_{tag}"


def veth_prefix(tag: str) -> str:
    return f"wr{tag}v"


def namespace_ruleset(network: ipaddress.IPv4Network) -> str:
    """For a fresh namespace; the same text for all of them. `network` is the agent's own range."""
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
    ct state established,related counter accept
    counter drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    ct state established,related counter accept
    iifname != "{TAP}" counter drop
    ip daddr @blocked4 counter reject with icmp type admin-prohibited
    tcp dport {{ {MAIL_PORTS} }} counter reject with icmp type admin-prohibited
    ct state new limit rate over 100/second burst 200 packets counter drop
    ct count over 1024 counter drop
    oifname "{UPLINK}" counter accept
    counter drop
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


def host_ruleset(tag: str, network: ipaddress.IPv4Network) -> str:
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


def _blocked_set(network: ipaddress.IPv4Network) -> str:
    elements = ",\n      ".join(dict.fromkeys((*BLOCKED, str(network))))
    return f"""\
  set blocked4 {{
    type ipv4_addr; flags interval; auto-merge;
    elements = {{
      {elements}
    }}
  }}"""
