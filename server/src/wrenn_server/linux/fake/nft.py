"""Rule sets in a dictionary: which tables exist, with the text that made them."""

import re
from pathlib import Path

from wrenn_server.linux import nft

_STATEMENT = re.compile(r"^(delete )?table (\w+) (\w+)( \{)?$")


class Nft(nft.Nft):
    """Understands tables, not rules. The real nft checks rules in the tests that need root."""

    def __init__(self) -> None:
        self.rulesets: dict[tuple[str, str, str], str] = {}
        """Namespace (empty: the host), family, table → the text that last defined it."""

    async def apply(self, ruleset: str, namespace: Path | None = None) -> None:
        where = namespace.name if namespace else ""
        for line in ruleset.splitlines():
            if found := _STATEMENT.match(line):
                key = (where, found[2], found[3])
                if found[1]:
                    del self.rulesets[key]
                else:
                    self.rulesets[key] = ruleset

    async def tables(self, namespace: Path | None = None) -> list[tuple[str, str]]:
        where = namespace.name if namespace else ""
        return [(family, name) for place, family, name in self.rulesets if place == where]
