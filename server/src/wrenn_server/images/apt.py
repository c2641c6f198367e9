"""Debian packages by the host's own apt configuration: its mirrors, proxies and keys are the only ones we know."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.images.progress import Progress
from wrenn_server.linux.process import CommandFailed, run

# The settings of the host's apt that a build elsewhere needs to reach the same archives in the same way.
CARRIED_SETTINGS = ("Acquire::http", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
DOWNLOAD_TIMEOUT = 900.0


class UnsuitableHost(Exception):
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
    """Debian's own sources of one release, with updates and security, out of `apt-get indextargets` with the format
    `$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)`. Other vendors' sources do not go into guests."""
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


async def sources(suite: str, progress: Progress, step: str) -> list[Source]:
    """:raises UnsuitableHost: the host's apt knows no Debian archive."""
    for attempt in ("as it is", "after an update"):
        targets = await run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
                "Created-By: Packages",
            ]
        )
        if found := debian_sources(targets.stdout.decode(), suite):
            return found
        if attempt == "as it is":
            await update(progress, step)
    raise UnsuitableHost(f"apt on this machine has no source of Debian {suite}: see /etc/apt/sources.list.d")


async def settings() -> list[str]:
    return carried_settings((await run(["apt-config", "dump"])).stdout.decode())


async def update(progress: Progress, step: str) -> None:
    progress.line(step, "apt-get update")
    await run(["apt-get", "update"], timeout=DOWNLOAD_TIMEOUT, on_line=lambda text: progress.line(step, text))


async def download(package: str, folder: Path, progress: Progress, step: str) -> Path:
    """Fetches the current version of one package into `folder` without installing it, and gives its path."""
    target = folder / package
    target.mkdir()
    # The sandbox user of apt may not write into our folder; the signature is checked either way.
    argv = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
    try:
        await run(argv, cwd=target, timeout=DOWNLOAD_TIMEOUT, on_line=lambda text: progress.line(step, text))
    except CommandFailed:
        # Fresh machines have no package lists, old ones name versions that the mirror has dropped.
        await update(progress, step)
        await run(argv, cwd=target, timeout=DOWNLOAD_TIMEOUT, on_line=lambda text: progress.line(step, text))
    [deb] = target.glob("*.deb")
    return deb


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
