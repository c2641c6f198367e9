"""Control groups without a kernel. Twins of `linux/cgroup.Cgroups` and `Cgroup`."""

from pathlib import Path

from wrenn_server.linux.cgroup import Limits


class FakeCgroup:
    def __init__(self, owner: "FakeCgroups", path: str) -> None:
        self._owner = owner
        self.path = path
        self.kills = 0
        self.oom = 0

    @property
    def procs(self) -> list[Path]:
        return [Path("/dev/null")]

    def oom_kills(self) -> int:
        return self.oom

    def memory_current(self) -> int:
        return 0

    def cpu_seconds(self) -> float:
        return 0.0

    def pids(self) -> set[int]:
        return set()

    def kill(self) -> None:
        self.kills += 1

    async def remove(self) -> None:
        self._owner.groups.pop(self.path, None)
        self._owner.limits.pop(self.path, None)


class FakeCgroups:
    def __init__(self) -> None:
        self.groups: dict[str, FakeCgroup] = {}
        self.limits: dict[str, Limits] = {}

    def open(self, path: str) -> FakeCgroup:
        return self.groups.get(path) or FakeCgroup(self, path)

    def create(self, path: str, limits: Limits) -> FakeCgroup:
        if path in self.groups:
            raise FileExistsError(path)
        self.groups[path] = FakeCgroup(self, path)
        self.limits[path] = limits
        return self.groups[path]

    def children(self, path: str) -> list[str]:
        prefix = path + "/"
        return sorted({name[len(prefix) :].split("/")[0] for name in self.groups if name.startswith(prefix)})

    async def remove(self, path: str) -> None:
        await self.open(path).remove()
