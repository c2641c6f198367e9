"""What of an installation is on this host: to prove, after `wrenn down --purge`, that nothing is."""

import os
import re
from pathlib import Path

from wrenn_server.linux.nft import Nft
from wrenn_server.up.settings import Settings


async def remains(settings: Settings) -> list[str]:
    """Everything found that belongs to the installation, in words; empty when the host is clean."""
    tag = settings.tag
    found = [f"process {line}" for line in processes(settings)]
    found += [f"namespace {path.name}" for path in entries(Path("/run/netns"), rf"wrenn-{tag}-.*")]
    found += [f"link {path.name}" for path in entries(Path("/sys/class/net"), rf"wr{tag}.*")]
    found += [f"nft table {name}" for _, name in await Nft().tables() if name == f"wrenn_{tag}"]
    found += [f"cgroup {path}" for path in cgroups(Path("/sys/fs/cgroup"), f"wrenn-{tag}")]
    found += [f"mount {place}" for place in mounts(settings)]
    if settings.data_dir.exists():
        found.append(f"directory {settings.data_dir}")
    return found


def entries(directory: Path, pattern: str) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if re.fullmatch(pattern, path.name))


def cgroups(root: Path, name: str) -> list[Path]:
    """Of either hierarchy: `<root>/<name>` on v2, `<root>/<controller>/<name>` on v1."""
    places = [root / name, *(directory / name for directory in root.iterdir() if directory.is_dir())]
    return [path for path in places if path.exists()]


def mounts(settings: Settings) -> list[str]:
    inside = (os.fspath(settings.data_dir) + "/", f"/run/netns/wrenn-{settings.tag}-")
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if point.startswith(inside)]


def processes(settings: Settings) -> list[str]:
    """Processes with a uid of our VMs, in our namespaces' cgroup, or with our data directory on their command line."""
    found: list[str] = []
    data_dir = os.fspath(settings.data_dir)
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            groups = (directory / "cgroup").read_text()
        except OSError:
            continue  # ended meanwhile
        command = " ".join(word.decode(errors="replace") for word in words).strip()
        ours = (
            any(word.startswith(data_dir.encode() + b"/") for word in words)
            or f"/wrenn-{settings.tag}" in groups
        )
        if ours:
            found.append(f"{directory.name} {command[:80]}")
    return found
