"""Debian packages by the host's own apt configuration: its mirrors, proxies and keys are the only ones we know."""

import asyncio
import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wrenn_server.images.progress import Progress
from wrenn_server.linux.process import CommandFailed, run

# The settings of the host's apt that a build elsewhere needs to reach the same archives in the same way.
CARRIED_SETTINGS = ("Acquire::http", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
INDEX_FORMAT = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
DOWNLOAD_TIMEOUT = 900.0


class UnsuitableHost(RuntimeError):
    """This machine cannot build images; the text says what it lacks."""


@dataclass(frozen=True, slots=True)
class Source:
    """One suite of one archive, as a line of sources.list has it."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def __str__(self) -> str:
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


def host_suite(os_release: str) -> str:
    """The code name of the host's Debian release, from the text of /etc/os-release.

    :raises UnsuitableHost: it is not Debian.
    """
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release, re.MULTILINE))
    if fields.get("ID") != "debian" or not fields.get("VERSION_CODENAME"):
        raise UnsuitableHost(
            f"guest images are built from Debian's packages; this is {fields.get('PRETTY_NAME')}"
        )
    return fields["VERSION_CODENAME"]


def debian_sources(index_targets: str, suite: str) -> list[Source]:
    """Debian's own sources of one release, with updates and security, out of what `apt-get indextargets` says in
    INDEX_FORMAT. Other vendors' sources do not go into guests."""
    components: dict[tuple[str, str], list[str]] = {}
    for line in index_targets.splitlines():
        origin, uri, release, component = line.split("|")
        if origin == "Debian" and release.partition("-")[0].partition("/")[0] == suite:
            known = components.setdefault((uri, release), [])
            if component not in known:
                known.append(component)
    return [Source(uri, release, tuple(known)) for (uri, release), known in components.items()]


def carried_settings(dump: str) -> list[str]:
    """The lines of `apt-config dump` that a build needs to reach the archives as the host does."""
    return [
        line for line in dump.splitlines() if line.startswith(CARRIED_SETTINGS) and not line.endswith('"";')
    ]


class Apt:
    """The host's apt during one build. Its package lists are brought up to date at most once, and only if needed."""

    def __init__(self, suite: str, progress: Progress) -> None:
        self.suite = suite
        self.progress = progress
        self._updating = asyncio.Lock()
        self._updated = False

    async def sources(self, step: str) -> list[Source]:
        """:raises UnsuitableHost: apt knows no Debian archive."""
        if not (found := await self._known_sources()):
            await self._update(step)
            found = await self._known_sources()
        if not found:
            raise UnsuitableHost(f"apt on this machine has no source of Debian {self.suite}: see /etc/apt")
        return found

    async def settings(self) -> list[str]:
        return carried_settings((await run(["apt-config", "dump"])).stdout.decode())

    async def download(self, package: str, folder: Path, step: str) -> Path:
        """Fetches the current version of one package into `folder` without installing it, and gives its path."""
        target = folder / package
        target.mkdir()
        # The sandbox user of apt may not write into our folder; the signature is checked either way.
        argv = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
        on_line = partial(self.progress.line, step)
        try:
            await run(argv, cwd=target, timeout=DOWNLOAD_TIMEOUT, on_line=on_line)
        except CommandFailed:
            # Fresh machines have no package lists, old ones name versions that the mirror has dropped.
            await self._update(step)
            await run(argv, cwd=target, timeout=DOWNLOAD_TIMEOUT, on_line=on_line)
        [deb] = target.glob("*.deb")
        return deb

    async def _known_sources(self) -> list[Source]:
        targets = await run(["apt-get", "indextargets", "--format", INDEX_FORMAT, "Created-By: Packages"])
        return debian_sources(targets.stdout.decode(), self.suite)

    async def _update(self, step: str) -> None:
        async with self._updating:
            if not self._updated:
                self.progress.line(step, "apt-get update")
                await run(
                    ["apt-get", "-q", "update"],
                    timeout=DOWNLOAD_TIMEOUT,
                    on_line=partial(self.progress.line, step),
                )
                self._updated = True


async def unpack(deb: Path, folder: Path) -> Path:
    await run(["dpkg-deb", "--extract", str(deb), str(folder)])
    return folder


async def depends(deb: Path) -> str:
    return (await run(["dpkg-deb", "--field", str(deb), "Depends"])).stdout.decode()


def require_tools(*needed: tuple[str, str]) -> None:
    """Takes (command, Debian package) pairs.

    :raises UnsuitableHost: some are missing; names the packages to install.
    """
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    missing = sorted({package for command, package in needed if shutil.which(command, path=path) is None})
    if missing:
        raise UnsuitableHost(f"building guest images needs more tools: apt-get install {' '.join(missing)}")
