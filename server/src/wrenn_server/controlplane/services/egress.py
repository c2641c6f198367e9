"""What a sandbox may reach, as people write it: made canonical, or refused. Pure."""

import ipaddress
import re
from collections.abc import Iterable

from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire.agent import Network

RULES_MAX = 1000
"""Entries of `allow_out`, and of `deny_out`."""
DNS_SERVERS_MAX = 8
EVERYTHING = "0.0.0.0/0"

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)+(?=[a-z0-9-]*[a-z])[a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
"""At least two labels, the last of which is no number: what looks like an address is one, or is refused."""
_MASK_HOST = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,252})(?::[0-9]{1,5})?")


def checked(network: Network) -> Network:
    """The same, every entry once and in its canonical form.

    :raises InvalidRequest: also for names in `allow_out` while everything else is open anyway
    """
    allow_out = _each("allow_out", network.allow_out, RULES_MAX)
    deny_out = _each("deny_out", network.deny_out, RULES_MAX)
    allowed = [_address(entry) or _domain(entry) for entry in allow_out]
    for entry, canonical in zip(allow_out, allowed, strict=True):
        if canonical is None:
            raise InvalidRequest(
                f"allow_out {entry[:100]!r}: expected an IPv4 address, a CIDR, host.name or *.host.name"
            )
    denied = [_address(entry) for entry in deny_out]
    for entry, canonical in zip(deny_out, denied, strict=True):
        if canonical is None:
            raise InvalidRequest(f"deny_out {entry[:100]!r}: expected an IPv4 address or a CIDR")
    servers = [_server(entry) for entry in _each("dns_servers", network.dns_servers, DNS_SERVERS_MAX)]
    names = [entry for entry in allow_out if _address(entry) is None]
    if names and network.internet and EVERYTHING not in denied:
        # E2B's own words; programs look for their beginning.
        raise InvalidRequest(
            "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all "
            "other traffic.",
            hint=f"add {EVERYTHING!r} to deny_out, or set internet to false",
        )
    return Network(
        internet=network.internet,
        allow_out=_once(allowed),
        deny_out=_once(denied),
        dns_servers=_once(servers),
    )


def checked_mask_host(mask_host: str | None) -> str | None:
    """:raises InvalidRequest:"""
    if mask_host is not None and not _MASK_HOST.fullmatch(mask_host.replace("${PORT}", "1")):
        raise InvalidRequest(
            f"mask_host {mask_host[:100]!r}: expected a host name, with or without a port, e.g. localhost:${{PORT}}"
        )
    return mask_host


def _each(name: str, entries: list[str], most: int) -> list[str]:
    if len(entries) > most:
        raise InvalidRequest(f"{name} has {len(entries)} entries: at most {most} are possible")
    return entries


def _address(text: str) -> str | None:
    """`1.2.3.4`, or `1.2.3.0/24` with the bits of the host cleared."""
    try:
        network = ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return None
    return str(network.network_address) if network.prefixlen == 32 else str(network)


def _domain(text: str) -> str | None:
    name = text.lower().removesuffix(".")
    return name if len(name) <= 253 and _DOMAIN.fullmatch(name) else None


def _server(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise InvalidRequest(f"dns_servers {text[:100]!r}: expected an IPv4 address") from error


def _once(entries: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(entry for entry in entries if entry is not None))
