"""Removing every trace that an agent leaves outside its files: for `wrenn down --purge`, also after a crash."""

import os
from pathlib import Path

from wrenn_server.hostagent.network import slots
from wrenn_server.linux import mounts
from wrenn_server.linux.cgroup import Cgroups


async def remove_all(data_dir: Path, tag: str) -> None:
    """Kills what runs in the cgroups of this tag, then removes its cgroups, mounts, namespaces, links and rules.

    Everything is tried; :raises ExceptionGroup: with what failed.
    """
    failures: list[Exception] = []
    for step in (remove_cgroups, remove_mounts, remove_network):
        try:
            await step(data_dir, tag)
        except Exception as error:  # noqa: BLE001 - the other steps must run all the same; raised below
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"removing what is left of {data_dir}", failures)


async def remove_empty(tag: str) -> None:
    """The parent of our cgroups, when no sandbox is in it any more."""
    groups = Cgroups.detect()
    parent = f"wrenn-{tag}"
    if not groups.children(parent):
        await groups.remove(parent)


async def remove_cgroups(data_dir: Path, tag: str) -> None:
    groups = Cgroups.detect()
    parent = f"wrenn-{tag}"
    for name in groups.children(parent):
        await groups.open(f"{parent}/{name}").remove()
    await groups.remove(parent)


async def remove_mounts(data_dir: Path, tag: str) -> None:
    inside = os.fspath(data_dir) + "/"
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(inside)), reverse=True):
        mounts.unbind(Path(point))


async def remove_network(data_dir: Path, tag: str) -> None:
    await slots.clean_up(tag)
