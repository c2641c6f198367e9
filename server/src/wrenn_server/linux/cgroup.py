"""Control groups, versions 1 and 2 behind one interface: limits for one VM, its OOM kills, its end.

Which version holds the controllers is told by the content of `cgroup.controllers`, not by what is mounted:
hybrid hosts mount an empty v2 hierarchy beside the v1 controllers.
Sources: kernel Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

import asyncio
import contextlib
import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_REMOVE_PATIENCE = 2.0
"""Seconds. The last task leaves its cgroup shortly after its end was seen."""


class CgroupsUnavailable(Exception):
    """This host has no usable controllers; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    memory_max: int
    """Bytes, swap excluded."""
    pids_max: int
    """Processes and threads."""
    cpus: float | None = None
    """Share of CPU time; 1.5 is one and a half cores. None: all there is."""


class Cgroup:
    """One group of processes. `directories` has one entry with v2, one per controller with v1."""

    def __init__(self, version: int, directories: dict[str, Path]) -> None:
        self.version = version
        self.directories = directories

    @property
    def procs(self) -> list[Path]:
        """A process that writes `0` into each of these files becomes a member."""
        return [directory / "cgroup.procs" for directory in self.directories.values()]

    def oom_kills(self) -> int:
        """How many members the kernel has killed because the memory limit was reached."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(FileNotFoundError):
            for line in (self.directories["memory"] / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    def memory_current(self) -> int:
        """Bytes charged now, page cache included."""
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        return int((self.directories["memory"] / name).read_text())

    def cpu_seconds(self) -> float:
        """CPU time used since the creation. 0 where the accounting is not mounted."""
        if self.version == 2:
            for line in (self.directories["cpu"] / "cpu.stat").read_text().splitlines():
                if line.startswith("usage_usec "):
                    return int(line.split()[1]) / 1e6
            return 0.0
        usage = self.directories["cpu"] / "cpuacct.usage"
        if "cpuacct" in self.directories:
            usage = self.directories["cpuacct"] / "cpuacct.usage"
        return int(usage.read_text()) / 1e9 if usage.exists() else 0.0

    def pids(self) -> set[int]:
        found: set[int] = set()
        for file in self.procs:
            with contextlib.suppress(FileNotFoundError):
                found.update(int(line) for line in file.read_text().split())
        return found

    def kill(self) -> None:
        """SIGKILL to every member. With v1 a member that forks meanwhile may escape; `remove` repeats it."""
        if self.version == 2:
            kill_file = self.directories["memory"] / "cgroup.kill"
            if kill_file.exists():  # Linux 5.14
                kill_file.write_text("1")
                return
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def remove(self) -> None:
        """Kills what is left and removes the group. Idempotent.

        :raises OSError: EBUSY when members will not die.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _REMOVE_PATIENCE
        pause = 0.001
        for directory in set(self.directories.values()):
            while True:
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or loop.time() > deadline:
                        raise
                    self.kill()
                    # v1 has no event for "empty", and v2's may be missed between read and watch.
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.1)
                else:
                    break


class Cgroups:
    """The host's hierarchy."""

    def __init__(self, version: int, roots: dict[str, Path]) -> None:
        self.version = version
        self.roots = roots
        """Controller to the directory of its hierarchy; with v2 all the same."""

    @classmethod
    def detect(cls, mount: Path = MOUNT) -> "Cgroups":
        """:raises CgroupsUnavailable: neither version offers memory, pids and cpu."""
        needed = ("memory", "pids", "cpu")
        with contextlib.suppress(FileNotFoundError):
            offered = (mount / "cgroup.controllers").read_text().split()
            if set(needed) <= set(offered):
                return cls(2, dict.fromkeys(needed, mount))
        roots = {
            name: mount / name for name in (*needed, "cpuacct") if (mount / name / "cgroup.procs").exists()
        }
        if missing := [name for name in needed if name not in roots]:
            raise CgroupsUnavailable(f"no cgroup controller for {', '.join(missing)} under {mount}")
        return cls(1, roots)

    def open(self, path: str) -> Cgroup:
        """An existing group, or what would be one: nothing is touched."""
        return Cgroup(self.version, {name: root / path for name, root in self.roots.items()})

    def create(self, path: str, limits: Limits) -> Cgroup:
        """Makes `path` (parents too) with its limits.

        :raises FileExistsError: the group exists; :raises OSError: the kernel refuses.
        """
        group = self.open(path)
        for root in dict.fromkeys(self.roots.values()):
            self._make_parents(root, Path(path).parent)
            (root / path).mkdir()
        try:
            for controller, name, value, optional in _settings(self.version, limits):
                file = group.directories[controller] / name
                if not optional or file.exists():
                    file.write_text(value)
        except BaseException:
            for directory in dict.fromkeys(group.directories.values()):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            raise
        return group

    def children(self, path: str) -> list[str]:
        """Names of the groups directly under `path`, for finding leftovers."""
        found: set[str] = set()
        for root in set(self.roots.values()):
            with contextlib.suppress(FileNotFoundError):
                found.update(entry.name for entry in (root / path).iterdir() if entry.is_dir())
        return sorted(found)

    async def remove(self, path: str) -> None:
        """Removes one group that has no children. Idempotent."""
        await self.open(path).remove()

    def _make_parents(self, root: Path, parent: Path) -> None:
        levels = [root / part for part in reversed([parent, *parent.parents])]
        for level in levels:
            level.mkdir(exist_ok=True)
            if self.version == 2:
                self._delegate(level)

    def _delegate(self, level: Path) -> None:
        control = level / "cgroup.subtree_control"
        missing = [name for name in ("memory", "pids", "cpu") if name not in control.read_text().split()]
        if not missing:
            return
        try:
            control.write_text(" ".join(f"+{name}" for name in missing))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise CgroupsUnavailable(
                    f"{level} has processes of its own, so its controllers cannot be handed on; "
                    "move them into a child group (containers: start with a private cgroup namespace and an init)"
                ) from error
            raise


def _settings(version: int, limits: Limits) -> list[tuple[str, str, str, bool]]:
    """(controller, file, value, may be absent), in the order in which they must be written."""
    quota = "max" if version == 2 else "-1"
    if limits.cpus is not None:
        quota = str(max(1000, int(limits.cpus * _PERIOD_US)))
    if version == 2:
        return [
            ("memory", "memory.max", str(limits.memory_max), False),
            ("memory", "memory.swap.max", "0", True),
            ("memory", "memory.oom.group", "1", True),
            ("pids", "pids.max", str(limits.pids_max), False),
            ("cpu", "cpu.max", f"{quota} {_PERIOD_US}", False),
        ]
    return [
        ("memory", "memory.limit_in_bytes", str(limits.memory_max), False),
        ("memory", "memory.memsw.limit_in_bytes", str(limits.memory_max), True),
        ("pids", "pids.max", str(limits.pids_max), False),
        ("cpu", "cpu.cfs_period_us", str(_PERIOD_US), True),
        ("cpu", "cpu.cfs_quota_us", quota, True),
    ]
