"""A host without virtual machines: the real registry, journal and files over a driver and slots that only remember.

A `FakeVm` is a process that outlives the agent: it stays in its `World` when a registry goes away without a word. Each
has an envd of its own, a real HTTP server on loopback, to which `FakeSlots.connect` leads.
"""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wrenn_server.hostagent.guest.client import Guest
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.egress import policy
from wrenn_server.hostagent.sandbox.activity import Used
from wrenn_server.hostagent.sandbox.files import Files
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry, Journal
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.sandbox.template import Templates
from wrenn_server.hostagent.sandbox.uploads import Uploads
from wrenn_server.hostagent.sandbox.warm import Warm
from wrenn_server.hostagent.storage.objects import Objects
from wrenn_server.hostagent.storage.paths import Paths
from wrenn_server.hostagent.storage.store import Store
from wrenn_server.hostagent.vmm.base import Place, VmExit, VmGone, VmmError, VmSpec
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.sandbox import Reason, State, may
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd

ID, OTHER, THIRD = "sb" + "a" * 20, "sb" + "b" * 20, "sb" + "c" * 20
CGROUP = "wrenn-test"


class FakeEnvd:
    """`/health` and `/init` as envd has them; the token lives in "memory" and so goes into snapshots."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.inits: list[dict[str, Any]] = []
        self.runs: list[str] = []
        self.refuse = False
        self.syncs = 0
        self.hangs = False
        """It never finishes a sync."""
        self.metrics: bytes | None = b"{}"
        """None: it never answers."""
        self.renewed = "random,boot_id,nonsense"
        """What it says of itself on the answer to `/init`."""
        self.idle: bytes = b"{}"
        """What it answers when it is asked what goes on in it."""
        self.loopback: bytes | None = None
        """What it answers when it is asked for a port of its loopback; None: nobody listens there."""
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, start_serving=False)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            await self._server.start_serving()
        except asyncio.CancelledError:
            self.stop()
            raise

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            status, answer = 204, b""
            if head.startswith("POST /process.Process/Start "):
                status = 200
                self.runs.append(envd.Envelopes().feed(body).__next__()[1].decode())
            if head.startswith("POST /init "):
                status = self._init(json.loads(body), fields.get("x-access-token"))
            if head.startswith("GET /tunnel?port=") and self.loopback is not None:
                await self._tunnel(reader, writer)
                return
            if head.startswith("GET /tunnel?port="):
                status = 502
            if head.startswith("GET /activity "):
                status, answer = 200, self.idle
            if head.startswith("POST /sync "):
                status = await self._sync(fields.get("x-access-token"))
            if head.startswith("GET /metrics ") and self.metrics is None:
                await reader.read()
            elif head.startswith("GET /metrics "):
                status, answer = 200, self.metrics or b""
            framing = f"Content-Length: {len(answer)}\r\nConnection: close\r\nX-Envd-Renewed: {self.renewed}"
            writer.write(f"HTTP/1.1 {status} Answer\r\n{framing}\r\n\r\n".encode() + answer)
            await writer.drain()
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An echo behind whatever `loopback` answers with."""
        writer.write(self.loopback or b"")
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def _sync(self, proof: str | None) -> int:
        if self.token and proof != self.token:
            return 401
        if self.hangs:
            await asyncio.Event().wait()
        self.syncs += 1
        return 204

    def _init(self, body: dict[str, Any], proof: str | None) -> int:
        if self.refuse:
            return 500
        if self.token and proof != self.token:
            return 401
        self.inits.append(body)
        self.token = body["accessToken"]
        return 204


@dataclass
class FakeVm:
    """One VM process."""

    pid: int
    place: Place
    spec: VmSpec
    envd: FakeEnvd
    world: "World"
    stopped: bool = False
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

    async def snapshot(self, directory: Path) -> None:
        self._check("snapshot")
        assert self.stopped
        assert list(directory.iterdir()) == []
        (directory / "state").write_text(json.dumps({"token": self.envd.token}))
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


class FakeDriver:
    name = "fake"

    def __init__(self, world: "World") -> None:
        self._world = world
        self.boots = 0

    async def version(self) -> str:
        return "1"

    def boot(self, spec: VmSpec, place: Place, *, template: bool = False) -> Any:
        self.boots += 1
        return self._started(spec, place, None)

    def restore(self, spec: VmSpec, place: Place, snapshot: Path) -> Any:
        assert (snapshot / "vmm.json").exists()
        return self._started(spec, place, json.loads((snapshot / "state").read_text())["token"])

    @contextlib.asynccontextmanager
    async def _started(self, spec: VmSpec, place: Place, token: str | None) -> AsyncGenerator[FakeVm]:
        world = self._world
        assert all(path.exists() for path in (spec.root_image, spec.overlay, place.directory))
        await world.reach("vm")
        if world.start_error is not None:
            raise world.start_error
        envd = FakeEnvd()
        envd.token, envd.refuse, envd.hangs = token, world.envd_refuses, world.envd_hangs
        await envd.start()
        world.envds.append(envd)
        vm = FakeVm(next(world.pids), place, spec, envd, world)
        world.vms[vm.pid] = vm
        async with self._owned(vm):
            yield vm

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
    async def agent(self, *, one_team: bool = False, warm: int = 0) -> AsyncGenerator[Registry]:
        """An agent's registry from its start to its orderly end.

        :param warm: VMs that may wait for their sandbox"""
        self.slots.used.clear()
        self.slots.enforced.clear()
        host = self.host()
        templates = Templates(host)
        waiting = Warm(host, warm, lambda: self.free_memory, quiet=0)
        registry = Registry(host, templates, waiting, one_team=one_team)
        await registry.find()
        async with contextlib.AsyncExitStack() as stack:
            if host.uploads is not None:
                await stack.enter_async_context(host.uploads)
            await stack.enter_async_context(registry)
            await stack.enter_async_context(templates)
            await stack.enter_async_context(waiting)
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
