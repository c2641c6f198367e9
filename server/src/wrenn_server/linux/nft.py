"""nftables: rule sets as text, applied as one transaction."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from wrenn_server.linux import netns
from wrenn_server.linux.process import CommandFailed, clean_env

TIMEOUT = 30.0
"""Seconds; a rule set of ours takes 4 ms."""


class Nft:
    """Each call is one transaction: all of it or nothing.

    Raises CommandFailed with what nft said, also when it is not installed.
    """

    async def apply(self, ruleset: str, namespace: Path | None = None) -> None:
        """In the host's namespace, or in the given one (`/run/netns/…`)."""

        def work() -> None:
            if namespace is not None:
                netns.enter(namespace)
            apply_here(ruleset)

        await netns.in_own_thread(work)

    async def delete_table(self, family: str, name: str) -> None:
        """Idempotent. `destroy table` would say it in one word, but nft before 1.0.8 does not know it."""
        await self.apply(f"table {family} {name}\ndelete table {family} {name}\n")

    async def tables(self, namespace: Path | None = None) -> list[tuple[str, str]]:
        """Family and name of every table, e.g. `("inet", "wrenn_1a2b")`."""
        return [(words[1], words[2]) for words in await self._list(["tables"], namespace) if len(words) == 3]

    async def chains(self, family: str, table: str, namespace: Path | None = None) -> list[str]:
        """Names of the table's chains; none when there is no such table."""
        found, ours = list[str](), False
        for words in await self._list(["chains", family], namespace):
            match words:
                case ["table", _, name, "{"]:
                    ours = name == table
                case ["chain", name, "{"] if ours:
                    found.append(name)
                case _:
                    pass
        return found

    async def _list(self, what: Sequence[str], namespace: Path | None) -> list[list[str]]:
        """The words of each line."""

        def work() -> str:
            if namespace is not None:
                netns.enter(namespace)
            return _nft(["nft", "list", *what], "")

        return [line.split() for line in (await netns.in_own_thread(work)).splitlines()]


def apply_here(ruleset: str) -> None:
    """In the namespace of the calling thread, which a child inherits."""
    _nft(["nft", "-f", "-"], ruleset)


def _nft(argv: list[str], input: str) -> str:
    try:
        done = subprocess.run(  # noqa: PLW1510 - the code is looked at below
            argv,
            input=input.encode(),
            capture_output=True,
            timeout=TIMEOUT,
            env=clean_env(),
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandFailed(argv, 127, b"nft is not installed: apt-get install nftables") from error
    if done.returncode:
        raise CommandFailed(argv, done.returncode, done.stderr)
    return done.stdout.decode()
