"""Rule sets in a dictionary: which tables exist, with the text that made them, and which chains came later."""

import re
from pathlib import Path

from wrenn_server.linux import nft

_CHAIN = re.compile(r"^(add|delete) chain (\w+) (\w+) (\w+)$")
_STATEMENT = re.compile(r"^(delete )?table (\w+) (\w+)( \{)?$")


class Nft(nft.Nft):
    """Understands tables, not rules. The real nft checks rules in the tests that need root."""

    def __init__(self) -> None:
        self.rulesets: dict[tuple[str, str, str], str] = {}
        """Namespace (empty: the host), family, table → the text that last defined it."""
        self.added: dict[tuple[str, str, str], list[str]] = {}
        """Of a namespace, family, table: chains that were added by themselves."""
        self.applied: list[tuple[str, str]] = []
        """Namespace and text of every transaction."""
        self.fail_next: Exception | None = None
        """Raised by the next transaction instead of doing it."""

    async def apply(self, ruleset: str, namespace: Path | None = None) -> None:
        error, self.fail_next = self.fail_next, None
        if error is not None:
            raise error
        where = namespace.name if namespace else ""
        self.applied.append((where, ruleset))
        for line in ruleset.splitlines():
            if found := _STATEMENT.match(line):
                key = (where, found[2], found[3])
                if found[1]:
                    del self.rulesets[key]
                else:
                    self.rulesets[key] = ruleset
            elif found := _CHAIN.match(line):
                chains = self.added.setdefault((where, found[2], found[3]), [])
                if found[1] == "add":
                    chains.append(found[4])
                else:
                    chains.remove(found[4])

    async def tables(self, namespace: Path | None = None) -> list[tuple[str, str]]:
        where = namespace.name if namespace else ""
        return [(family, name) for place, family, name in self.rulesets if place == where]

    async def chains(self, family: str, table: str, namespace: Path | None = None) -> list[str]:
        return [*self.added.get((namespace.name if namespace else "", family, table), [])]
