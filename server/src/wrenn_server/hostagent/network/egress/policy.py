"""What one sandbox may reach, from the words of the wire to values that can be asked. Pure.

Allow wins over deny, as E2B has it; the platform's own blocks (`rules.BLOCKED`, mail) win over both and are not here.
Names matter only where everything else is denied: with an open internet there is nothing to allow.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network, collapse_addresses

from wrenn_server.hostagent.network.ranges import BLOCKED
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire.agent import Network

MAX_RULES = 1000
"""Entries of one list. The kernel would take more; a person does not mean more."""
MAX_DNS_SERVERS = 10

_EVERYTHING = IPv4Network("0.0.0.0/0")
_ADDRESS = re.compile(r"[0-9.]+(?:/[0-9]{1,2})?", re.ASCII)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_MAX_NAME = 253  # RFC 1035 2.3.4, without the final dot


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    closed: bool = False
    """Everything that is not allowed is denied; `deny` is empty then."""
    allow: tuple[IPv4Network, ...] = ()
    deny: tuple[IPv4Network, ...] = ()
    """Both without overlaps, in order."""
    names: frozenset[str] = frozenset()
    """Allowed hosts, lower case, no final dot."""
    domains: frozenset[str] = frozenset()
    """Allowed with everything below them, but not themselves: `example.org` for `*.example.org`."""
    dns_servers: tuple[IPv4Address, ...] = ()

    @property
    def by_name(self) -> bool:
        """Names decide: a resolver and a proxy of ours stand between the guest and the ports 80 and 443."""
        return self.closed and bool(self.names or self.domains)

    @property
    def resolves(self) -> bool:
        """The guest's DNS questions come to us."""
        return self.by_name or bool(self.dns_servers)

    def permits(self, address: IPv4Address) -> bool:
        """By address alone."""
        return _within(address, self.allow) or not (self.closed or _within(address, self.deny))

    def permits_name(self, name: str) -> bool:
        """:param name: canonical"""
        if not self.closed or name in self.names:
            return True
        _, _, parent = name.partition(".")
        while parent:
            if parent in self.domains:
                return True
            _, _, parent = parent.partition(".")
        return False


OPEN = Policy()
"""Of a sandbox whose creator said nothing."""


def parse(network: Network) -> Policy:
    """:raises InvalidRequest: names the rule that cannot be understood"""
    for field, rules in (("allow_out", network.allow_out), ("deny_out", network.deny_out)):
        if len(rules) > MAX_RULES:
            raise InvalidRequest(f"{field} has {len(rules)} rules, at most {MAX_RULES} are possible")
    allow, hosts = list[IPv4Network](), list[str]()
    for rule in network.allow_out:
        found = _network(rule, "allow_out")
        if found is None:
            hosts.append(_host(rule))
        else:
            allow.append(found)
    deny = [_denied(rule) for rule in network.deny_out if not _is_ipv6(rule)]
    merged = tuple(collapse_addresses(deny))
    closed = not network.internet or merged == (_EVERYTHING,)
    return Policy(
        closed=closed,
        allow=tuple(collapse_addresses(allow)),
        deny=() if closed else merged,
        names=frozenset(host for host in hosts if not host.startswith("*")),
        domains=frozenset(host.removeprefix("*.") for host in hosts if host.startswith("*")),
        dns_servers=_dns_servers(network.dns_servers),
    )


def canonical(name: str) -> str | None:
    """A host name in the one spelling that is compared: lower case, no final dot. None: not a host name, but an
    address or nonsense."""
    name = name.lower().removesuffix(".")
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name) or name.rpartition(".")[2].isdecimal():
        return None
    return name


def _network(rule: str, field: str) -> IPv4Network | None:
    """None: it does not look like one. Bits behind the prefix are ignored, as E2B does."""
    if _is_ipv6(rule):
        raise InvalidRequest(f"{field}: {rule!r} is IPv6, which sandboxes do not have")
    if not _ADDRESS.fullmatch(rule):
        return None
    try:
        return IPv4Network(rule, strict=False)
    except ValueError:
        raise InvalidRequest(f"{field}: {rule!r} is neither an IPv4 address nor a CIDR") from None


def _denied(rule: str) -> IPv4Network:
    found = _network(rule, "deny_out")
    if found is None:
        raise InvalidRequest(
            f"deny_out: {rule!r} is neither an IPv4 address nor a CIDR",
            hint="names can only be allowed: deny 0.0.0.0/0 and allow the others",
        )
    return found


def _host(rule: str) -> str:
    name = canonical(rule.removeprefix("*."))
    if name is None:
        raise InvalidRequest(
            f"allow_out: {rule!r} is no address, CIDR, host name or *.domain",
            hint="international names are written in their xn-- form",
        )
    return f"*.{name}" if rule.startswith("*.") else name


def _dns_servers(servers: Sequence[str]) -> tuple[IPv4Address, ...]:
    if len(servers) > MAX_DNS_SERVERS:
        raise InvalidRequest(
            f"dns_servers has {len(servers)} entries, at most {MAX_DNS_SERVERS} are possible"
        )
    found = list[IPv4Address]()
    for server in servers:
        try:
            address = IPv4Address(server)
        except AddressValueError:
            raise InvalidRequest(f"dns_servers: {server!r} is not an IPv4 address") from None
        if _within(address, BLOCKED):
            raise InvalidRequest(f"dns_servers: {server} is in a range that sandboxes do not reach")
        found.append(address)
    return tuple(dict.fromkeys(found))


def _is_ipv6(rule: str) -> bool:
    """Denied already, so that `::/0` beside `0.0.0.0/0` is no mistake."""
    try:
        IPv6Network(rule, strict=False)
    except ValueError:
        return False
    return True


def _within(address: IPv4Address, networks: Iterable[IPv4Network]) -> bool:
    return any(address in network for network in networks)
