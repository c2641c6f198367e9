"""VMMs and VMs that only remember. A `FakeVm` is a process that outlives the agent: it stays in its `World` when a
registry goes away without a word."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostagent.fake_envd import FakeEnvd

from wrenn_server.hostagent.vmm.base import Ahead, Place, VmExit, VmGone, VmSpec
from wrenn_server.model.sandbox import Reason

if TYPE_CHECKING:
    from hostagent.world import World


@dataclass
class FakeVm:
    """One VM process."""

    pid: int
    place: Place
    spec: VmSpec
    envd: FakeEnvd
    world: "World"
    base: int
    """What its memory started from: the pid of the VM that was booted."""
    stopped: bool = False
    lazy: bool = False
    """Its disk comes from an NBD server."""
    detached: bool = False
    ended: "asyncio.Future[VmExit]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def record(self) -> dict[str, Any]:
        return {"pid": self.pid}

    @property
    def alive(self) -> bool:
        return not self.ended.done()

    async def pause(self) -> None:
        self._check("pause")
        self.stopped = True

    async def resume(self) -> None:
        self._check("resume")
        self.stopped = False

    async def settle(self, overlay: Path) -> None:
        self._check("settle")
        await self.world.reach("settle")
        if self.world.settle_error is not None:
            raise self.world.settle_error
        assert overlay == self.spec.overlay
        self.lazy = False

    async def snapshot(self, directory: Path) -> None:
        self._check("snapshot")
        assert not self.lazy
        assert self.stopped
        assert list(directory.iterdir()) == []
        (directory / "state").write_text(json.dumps({"token": self.envd.token, "base": self.base}))
        await self.world.reach("snapshot")
        if self.world.snapshot_error is not None:
            raise self.world.snapshot_error
        (directory / "vmm.json").write_text("{}")

    async def kill(self) -> None:
        self.end(Reason.USER, "killed")

    async def wait(self) -> VmExit:
        return await asyncio.shield(self.ended)

    async def console(self) -> str:
        return "last words"

    def detach(self) -> None:
        self.detached = True

    def end(self, reason: Reason, detail: str) -> None:
        """The process ends, for whatever cause."""
        if self.alive:
            self.ended.set_result(VmExit(reason=reason, detail=detail, console="last words"))
            self.envd.stop()
            self.world.vms.pop(self.pid, None)

    def _check(self, what: str) -> None:
        if not self.alive:
            raise VmGone(f"{what}: the process has ended")


class FakeAhead:
    def __init__(self, driver: "FakeDriver") -> None:
        self._driver = driver

    def kind(self, spec: VmSpec, snapshot: Path) -> Hashable:
        return spec.vcpus, spec.memory_mb, json.loads((snapshot / "state").read_text())["base"]

    @contextlib.asynccontextmanager
    async def start(self, spec: VmSpec, place: Place, snapshot: Path) -> AsyncGenerator["FakeVmm"]:
        async with self._driver.process(spec, place) as vm:
            yield FakeVmm(self, self._driver, vm, self.kind(spec, snapshot))


@dataclass
class FakeVmm:
    ahead: FakeAhead
    driver: "FakeDriver"
    vm: FakeVm
    kind: Hashable

    async def load(self, spec: VmSpec, snapshot: Path) -> FakeVm:
        assert self.ahead.kind(spec, snapshot) == self.kind
        await self.driver.bring_up(self.vm, spec, snapshot)
        return self.vm

    async def wait(self) -> VmExit:
        return await self.vm.wait()


class FakeDriver:
    name = "fake"
    lazy = True

    def __init__(self, world: "World") -> None:
        self._world = world
        self.boots = 0
        self.ahead: Ahead | None = None

    async def version(self) -> str:
        return "1"

    def boot(self, spec: VmSpec, place: Place, *, template: bool = False) -> Any:
        self.boots += 1
        return self._started(spec, place, None)

    def restore(self, spec: VmSpec, place: Place, snapshot: Path) -> Any:
        return self._started(spec, place, snapshot)

    @contextlib.asynccontextmanager
    async def _started(self, spec: VmSpec, place: Place, snapshot: Path | None) -> AsyncGenerator[FakeVm]:
        async with self.process(spec, place) as vm:
            await self.bring_up(vm, spec, snapshot)
            yield vm

    @contextlib.asynccontextmanager
    async def process(self, spec: VmSpec, place: Place) -> AsyncGenerator[FakeVm]:
        """A VMM without a VM."""
        assert place.directory.exists()
        pid = next(self._world.pids)
        vm = self._world.vms[pid] = FakeVm(pid, place, spec, FakeEnvd(), self._world, base=pid, stopped=True)
        async with self._owned(vm):
            yield vm

    async def bring_up(self, vm: FakeVm, spec: VmSpec, snapshot: Path | None) -> None:
        """:param snapshot: None: it boots"""
        world, envd = self._world, vm.envd
        assert all(path.exists() for path in (spec.root_image, spec.overlay))
        await world.reach("vm")
        if world.start_error is not None:
            raise world.start_error
        if snapshot is not None:
            assert (snapshot / "vmm.json").exists()
            state = json.loads((snapshot / "state").read_text())
            envd.token, vm.base = state["token"], state["base"]
        envd.refuse, envd.hangs = world.envd_refuses, world.envd_hangs
        await envd.start()
        world.envds.append(envd)
        vm.spec, vm.stopped, vm.lazy = spec, False, spec.lazy

    @contextlib.asynccontextmanager
    async def adopt(self, spec: VmSpec, place: Place, record: dict[str, Any]) -> AsyncGenerator[FakeVm]:
        vm = self._world.vms.get(record["pid"])
        if vm is None:
            raise VmGone("no such process")
        vm.detached = False
        async with self._owned(vm):
            yield vm

    @contextlib.asynccontextmanager
    async def _owned(self, vm: FakeVm) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            if not vm.detached:
                await vm.kill()
