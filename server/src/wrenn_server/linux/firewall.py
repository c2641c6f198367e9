"""Rules of other programs that stop packets between interfaces: Docker, ufw and firewalld drop what they do not know.

A packet needs the consent of every chain at the hook, and an `accept` of our own table overrules no other's drop. So
the owner of those rules has to let us pass. Pure: from what the tools list to what is in the way.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_TABLE = re.compile(r"table (ip|inet) (\S+) \{")
_CHAIN = re.compile(r"\tchain (\S+) \{")
_BASE = re.compile(r"type filter hook forward priority [^;]*; policy (accept|drop);")
_ALWAYS = re.compile(r"(?:counter packets \d+ bytes \d+ )?(accept|drop|reject\b.*)")
_NAMES = re.compile(r"\b([io])ifname (\{[^}]*\}|\"[^\"]*\")")
_DOCKER = "DOCKER-USER"
"""Docker asks this chain first, and leaves what is in it alone."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A chain at the hook `forward` that stops what it does not know."""

    chain: str
    opening: list[str]
    """Shell commands that make it let our interfaces pass."""


@dataclass(slots=True)
class _Table:
    family: str
    name: str
    chains: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


def closed(ruleset: str, interfaces: str) -> list[Closed]:
    """Chains that stop packets of our interfaces.

    :param ruleset: what `nft list ruleset` prints; also has the rules of today's iptables
    :param interfaces: what the names of ours begin with"""
    return [
        Closed(f"{table.family} {table.name} {chain}", _opening(table, chain, interfaces))
        for table in _tables(ruleset)
        for chain, lines in table.chains.items()
        if _stops(lines) and not _passes(table, interfaces)
    ]


def closed_legacy(rules: str, interfaces: str) -> list[Closed]:
    """The same for iptables of before nftables, whose rules nft does not see.

    :param rules: what `iptables-legacy -S` prints"""
    lines = rules.splitlines()
    passing = {
        f"-{way} {interfaces}+" for way in "io" for line in lines
        if f"-{way} {interfaces}+ " in line and line.endswith("-j ACCEPT")
    }  # fmt: skip
    if "-P FORWARD DROP" not in lines or len(passing) == 2:
        return []
    chain = _DOCKER if f"-N {_DOCKER}" in lines else "FORWARD"
    return [Closed("FORWARD of iptables-legacy", _iptables("iptables-legacy", chain, interfaces))]


def _tables(ruleset: str) -> Iterator[_Table]:
    table: _Table | None = None
    rules: list[str] | None = None
    for line in ruleset.splitlines():
        if found := _TABLE.fullmatch(line):
            table = _Table(found[1], found[2])
        elif line == "}" and table is not None:
            yield table
            table = None
        elif table is not None and (found := _CHAIN.fullmatch(line)):
            rules = table.chains[found[1]] = []
        elif line == "\t}":
            rules = None
        elif rules is not None:
            rules.append(line.strip())


def _stops(lines: list[str]) -> bool:
    """A packet that no rule with a condition decides on."""
    base = _BASE.fullmatch(lines[0]) if lines else None
    if base is None:
        return False
    always = next((found[1] for line in lines if (found := _ALWAYS.fullmatch(line))), base[1])
    return always != "accept"


def _passes(table: _Table, interfaces: str) -> bool:
    """Some rule accepts what comes from ours, and one what answers it. Whether a packet gets as far as there, only
    their author knows."""
    ways = set[str]()
    for line in (line for lines in table.chains.values() for line in lines if line.endswith(" accept")):
        names = _NAMES.findall(line)
        ways |= {way for way, written in names if _among(interfaces, re.findall(r'"([^"]*)"', written))}
        if "ifname" not in line and re.search(r"\bct state \S*established", line):
            ways.add("o")
    return ways == {"i", "o"}


def _among(interfaces: str, names: Iterable[str]) -> bool:
    return any(name.endswith("*") and interfaces.startswith(name[:-1]) for name in names)


def _opening(table: _Table, chain: str, interfaces: str) -> list[str]:
    if (table.family, table.name) == ("ip", "filter"):
        return _iptables("iptables", _DOCKER if _DOCKER in table.chains else chain, interfaces)
    where = f"insert rule {table.family} {table.name} {chain}"
    return [f"nft '{where} {way}ifname \"{interfaces}*\" accept'" for way in "io"]


def _iptables(command: str, chain: str, interfaces: str) -> list[str]:
    return [f"{command} -I {chain} -{way} {interfaces}+ -j ACCEPT" for way in "io"]
