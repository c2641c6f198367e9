"""A host without virtual machines: the real registry, journal and files over a driver and slots that only remember.

Each VM has an envd of its own, to which `FakeSlots.connect` leads.
"""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hostagent.fake_envd import FakeEnvd
from hostagent.fake_vmm import FakeAhead, FakeDriver, FakeVm

from wrenn_server.hostagent.guest.client import Guest
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.egress import policy
from wrenn_server.hostagent.sandbox import standby
from wrenn_server.hostagent.sandbox.activity import Used
from wrenn_server.hostagent.sandbox.files import Files
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry, Journal
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.sandbox.spares import Spares
from wrenn_server.hostagent.sandbox.template import Templates
from wrenn_server.hostagent.sandbox.uploads import Uploads
from wrenn_server.hostagent.sandbox.warm import Warm
from wrenn_server.hostagent.storage.objects import Objects
from wrenn_server.hostagent.storage.paths import Paths
from wrenn_server.hostagent.storage.store import Store
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.sandbox import Reason, State, may
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd

ID, OTHER, THIRD = "sb" + "a" * 20, "sb" + "b" * 20, "sb" + "c" * 20
CGROUP = "wrenn-test"


@dataclass
class FakeEgress:
    slots: "FakeSlots"
    slot: Slot

    async def apply(self, network: wire.Network) -> None:
        policy.parse(network)
        await self.slots.world.reach("egress")
        if self.slots.egress_error is not None:
            raise self.slots.egress_error
        self.slots.networks[self.slot.index] = network


class FakeSlots:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.used: set[int] = set()
        self.networks: dict[int, wire.Network] = {}
        """The rules of each slot; they stay when nobody enforces them."""
        self.enforced: set[int] = set()
        self.egress_error: Exception | None = None
        self.limit = 8

    async def acquire(self) -> Slot:
        free = (index for index in range(self.limit) if index not in self.used)
        index = next(free, None)
        if index is None:
            raise Unavailable("no more slots", code="no_slots")
        return self.adopt(index)

    async def release(self, slot: Slot) -> None:
        assert slot.index not in self.enforced
        self.used.discard(slot.index)
        self.networks.pop(slot.index, None)

    def adopt(self, index: int) -> Slot:
        assert index not in self.used
        self.used.add(index)
        return Slot(index=index, name=f"wrenn-test-{index}", uid=0, veth=f"wrtestv{index}")

    async def connect(self, slot: Slot, port: int, timeout: float) -> socket.socket:
        [vm] = [vm for vm in self.world.vms.values() if vm.place.netns == slot.netns]
        if port not in {envd.PORT, self.world.open_port}:
            raise ConnectionRefusedError(f"nobody listens on {port}")
        connected = socket.socket()
        connected.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", vm.envd.port))
        except BaseException:
            connected.close()
            raise
        return connected

    @contextlib.asynccontextmanager
    async def enforcing(self, slot: Slot, network: wire.Network) -> AsyncGenerator[FakeEgress]:
        egress = FakeEgress(self, slot)
        await egress.apply(network)
        assert slot.index not in self.enforced
        self.enforced.add(slot.index)
        try:
            yield egress
        finally:
            self.enforced.remove(slot.index)


class FakeStrays:
    def __init__(self, world: "World") -> None:
        self._world = world

    def children(self, path: str) -> list[str]:
        return [vm.place.cgroup.removeprefix(f"{path}/") for vm in self._world.vms.values()]

    async def remove(self, path: str) -> None:
        for vm in list(self._world.vms.values()):
            if vm.place.cgroup == path:
                vm.end(Reason.VMM_CRASHED, "swept")


class FakeClock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self.time

    async def sleep_until(self, when: float) -> None:
        if when <= self.time:
            return
        event = asyncio.Event()
        self._sleepers.append((when, event))
        await event.wait()

    def advance(self, seconds: float) -> None:
        self.time += seconds
        for when, event in self._sleepers:
            if when <= self.time:
                event.set()


class World:
    """The machine: what outlives an agent, and switches for what goes wrong."""

    def __init__(self, directory: Path, objects: Path | None = None) -> None:
        """:param objects: folder of an object store"""
        self.objects = objects
        self.paths = Paths.under(directory)
        self.paths.prepare()
        for file in (self.paths.kernel, self.paths.initrd, self.paths.images / "minimal.ext4"):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"x")
        self.pids = itertools.count(100)
        self.vms: dict[int, FakeVm] = {}
        self.clock = FakeClock()
        self.used = Used(self.clock)
        self.slots = FakeSlots(self)
        self.driver = FakeDriver(self)
        self.start_error: Exception | None = None
        self.snapshot_error: Exception | None = None
        self.settle_error: Exception | None = None
        self.open_port = 80
        """Beside envd's, on the guest's own address; leads to envd as well."""
        self.free_memory = 100_000
        """MiB."""
        self.envd_refuses = False
        self.envd_hangs = False
        self.envds: list[FakeEnvd] = []
        """Of all VMs that ever ran."""
        self.gates: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}
        self.history: dict[str, list[State]] = {}
        self.changes = asyncio.Condition()
        self.listeners: list[Callable[[Entry], None]] = []
        self._told: set[asyncio.Task[None]] = set()

    def host(self) -> Host:
        files = Files.under(self.paths)
        uploads = None
        if self.objects is not None:
            store = Store(Objects.open(str(self.objects)), self.paths, files.images, machine="fake")
            uploads = Uploads(store, files)
        return Host(
            uploads=uploads,
            driver=self.driver,
            slots=self.slots,
            files=files,
            journal=Journal(self.paths.sandboxes),
            guest=Guest(start_timeout=5, boot_timeout=5),
            clock=self.clock,
            used=self.used,
            cgroup=CGROUP,
            strays=FakeStrays(self),
            starts=asyncio.Semaphore(4),
            changed=self._changed,
        )

    @contextlib.asynccontextmanager
    async def agent(
        self, *, one_team: bool = False, warm: int = 0, spares: int = 0
    ) -> AsyncGenerator[Registry]:
        """An agent's registry from its start to its orderly end.

        :param warm: VMs that may wait for their sandbox
        :param spares: VMMs that may wait for their VM"""
        self.slots.used.clear()
        self.slots.enforced.clear()
        host = self.host()
        templates = Templates(host)
        restored = partial(standby.restored, host)
        waiting = Warm(host, warm, lambda: self.free_memory, restored, standby.kind, quiet=0)
        ahead = Spares(host, FakeAhead(self.driver))
        vmms = Warm(host, spares, lambda: self.free_memory, ahead.start, ahead.kind, quiet=0)
        registry = Registry(host, templates, waiting, take_spare=vmms.take, one_team=one_team)
        await registry.find()
        async with contextlib.AsyncExitStack() as stack:
            if host.uploads is not None:
                await stack.enter_async_context(host.uploads)
            await stack.enter_async_context(registry)
            await stack.enter_async_context(templates)
            await stack.enter_async_context(waiting)
            await stack.enter_async_context(vmms)
            yield registry

    def hold(self, point: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Makes the next VM wait at `point` (vm, snapshot): (it is there, let it go)."""
        self.reached[point], self.gates[point] = asyncio.Event(), asyncio.Event()
        return self.reached[point], self.gates[point]

    async def reach(self, point: str) -> None:
        if point in self.gates:
            self.reached[point].set()
            await self.gates[point].wait()

    def vm(self, id: str = ID) -> FakeVm:
        [vm] = [vm for vm in self.vms.values() if vm.place.id == id]
        return vm

    def entry(self, id: str = ID) -> Entry | None:
        """What the journal says."""
        return next(
            (e for e in Journal(self.paths.sandboxes).load() if isinstance(e, Entry) and e.id == id), None
        )

    def traces(self, id: str = ID) -> list[str]:
        """Everything on disk that carries the id."""
        found = (path.relative_to(self.paths.data) for path in self.paths.data.rglob("*"))
        return sorted(str(path) for path in found if id in path.parts)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for a change after which the condition holds."""
        async with self.changes, asyncio.timeout(10):
            await self.changes.wait_for(condition)

    def _changed(self, entry: Entry) -> None:
        states = self.history.setdefault(entry.id, [])
        if states and states[-1] is not entry.state:
            assert may(states[-1], entry.state), f"{states[-1]} -> {entry.state}"
        states.append(entry.state)
        for listener in self.listeners:
            listener(entry)
        task = asyncio.get_running_loop().create_task(self._tell())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _tell(self) -> None:
        async with self.changes:
            self.changes.notify_all()


def start(generation: int = 1, **changes: Any) -> wire.Start:
    fields: dict[str, Any] = {
        "generation": generation,
        "template": "minimal",
        "template_id": "tpl_" + "a" * 20,
        "team_id": "team_" + "a" * 20,
        "vcpus": 1,
        "memory_mb": 128,
        "disk_mb": 512,
        "access_token": f"token{generation}",
    }
    return wire.Start(**(fields | changes))


def resume(generation: int, **changes: Any) -> wire.Resume:
    return wire.Resume(generation=generation, access_token=f"token{generation}", **changes)


def pause(generation: int = 1, **changes: Any) -> wire.Pause:
    return wire.Pause(generation=generation, **changes)


def fork(generation: int, *ids: str) -> wire.Fork:
    targets = [wire.ForkTarget(id=id, generation=1, access_token=f"token of {id}") for id in ids]
    return wire.Fork(generation=generation, targets=targets)


async def refused(call: Awaitable[Any]) -> str:
    """The code with which a call is refused."""
    from wrenn_server.model.errors import WrennError

    try:
        answer = await call
    except WrennError as error:
        return error.code
    raise AssertionError(f"it was not refused: {answer}")


__all__ = ["ID", "OTHER", "THIRD", "VmmError", "World", "fork", "pause", "refused", "resume", "start"]
