"""What the agent is in the middle of when it dies: how to arrange it, how to do it, and what it is about."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hostagent.process import COUNTER, AgentProcess, count, large, start

from support.programs import stands_still
from wrenn_server.linux import crash
from wrenn_server.model.errors import WrennError
from wrenn_server.model.ids import new_sandbox_id, new_snapshot_id

FRESH_DISK_MB = 1536
"""No template has this shape yet."""
A_SPARE = {"AGENT_SPARES": "1"}
NOWHERE = {"deny_out": ["0.0.0.0/0"]}


@dataclass(slots=True)
class Scene:
    """One sandbox, and what the operation makes beside it."""

    agent: AgentProcess
    id: str = field(default_factory=new_sandbox_id)
    other: str = field(default_factory=new_sandbox_id)
    """Fork, or started from the snapshot."""
    snapshot: str = field(default_factory=new_snapshot_id)
    generation: int = 1
    """That it has, or will have when the operation succeeds."""
    count: int = 0
    """How far its memory was when that was last asked."""
    kept: bool = True
    """Its memory is in what is saved of it."""
    large: bool = False
    """There is a file on its disk that its memory does not have."""
    acknowledged: list[str] = field(default_factory=list[str])
    """Sandboxes whose create was answered before the agent died."""
    attempted: str = ""
    """The create that was not answered."""
    said: tuple[str, str, object] = ("", "", None)
    """The last call of the operation."""

    @property
    def path(self) -> str:
        return f"/v1/sandboxes/{self.id}"

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """A call that the agent may not survive."""
        self.said = method, path, body
        with contextlib.suppress(WrennError, OSError):
            return await self.agent.call(method, path, body)

    async def runs(self) -> None:
        await self.agent.ok("PUT", self.path, start(token(1)))
        await self.agent.run(self.id, token(1), "echo precious > ~/file; sync; " + COUNTER)
        self.count = await count(self.agent, self.id, token(1))
        if self.large:
            await self.agent.run(self.id, token(1), large(24))

    async def rests(self, *, memory: bool = True) -> None:
        await self.runs()
        await self.agent.ok("POST", f"{self.path}/pause", {"generation": 1, "memory": memory})
        self.generation, self.kept = 2, memory

    async def has_resumed(self) -> None:
        await self.rests()
        await self.agent.ok("POST", f"{self.path}/resume", {"generation": 2, "access_token": token(2)})
        self.count = await count(self.agent, self.id, token(2), beyond=self.count)

    async def is_saved(self) -> None:
        await self.runs()
        await self.agent.ok("POST", f"{self.path}/snapshot", {"generation": 1, "id": self.snapshot})

    async def is_stored(self) -> None:
        await self.rests()
        await self.agent.ok("POST", f"{self.path}/store", {"generation": 1})

    async def is_in_the_store_alone(self) -> None:
        await self.is_stored()
        await self.agent.ok("DELETE", f"{self.path}?generation=1&elsewhere=true")

    async def is_large_and_in_the_store_alone(self) -> None:
        self.large = True
        await self.is_in_the_store_alone()

    async def is_stranded(self) -> None:
        """An agent died before its create was answered, and its VM is still there."""
        await self.agent.end()
        with armed(self.agent, "vm.introduced", {}):
            await self.agent.start()
            await create(self)
            await self.agent.died()


def token(generation: int) -> str:
    return f"token{generation}"


async def nothing(_: Scene) -> None:
    pass


async def create(scene: Scene) -> None:
    await scene.ask("PUT", scene.path, start(token(1)))


async def create_again_and_again(scene: Scene, rest: float = 1.5) -> None:
    """Until one has what waited for it, or that is being made ready.

    :param rest: seconds between two: the pools fill themselves when nobody creates, and tell nobody of it"""
    async with asyncio.timeout(60):
        while scene.agent.process is not None and scene.agent.process.poll() is None:
            scene.attempted = new_sandbox_id()
            answered = await scene.ask("PUT", f"/v1/sandboxes/{scene.attempted}", start(token(1)))
            if answered is None:
                break
            assert answered[0] == 200, answered
            scene.acknowledged.append(scene.attempted)
            scene.attempted = ""
            await asyncio.sleep(rest)


async def once_one_waits(scene: Scene, act: Callable[[Scene], Awaitable[None]]) -> None:
    """When a VMM waits for whoever is next."""
    first = new_sandbox_id()
    known = {first, *scene.agent.machines()}
    await scene.agent.ok("PUT", f"/v1/sandboxes/{first}", start(token(1)))
    scene.acknowledged.append(first)
    async with asyncio.timeout(30):
        while not scene.agent.machines() - known:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)  # its cgroup is the first that is there of it, the rest takes 60 ms
    await act(scene)


async def pause(scene: Scene, *, memory: bool = True) -> None:
    scene.kept = memory
    await scene.ask("POST", f"{scene.path}/pause", {"generation": scene.generation, "memory": memory})


async def store(scene: Scene) -> None:
    await scene.ask("POST", f"{scene.path}/store", {"generation": 1})


async def fetch(scene: Scene) -> None:
    await scene.ask("POST", f"{scene.path}/fetch", {"generation": 1})


async def resume(scene: Scene, *, memory: bool = True) -> None:
    body = {"generation": scene.generation, "access_token": token(scene.generation), "memory": memory}
    await scene.ask("POST", f"{scene.path}/resume", body)


async def resume_here(scene: Scene) -> None:
    """Where nothing of it is."""
    await scene.ask("POST", f"{scene.path}/resume", {"generation": 2, "access_token": token(2), "stored": 1})


async def fork(scene: Scene) -> None:
    targets = [{"id": scene.other, "generation": 1, "access_token": token(1)}]
    await scene.ask("POST", f"{scene.path}/fork", {"generation": 1, "targets": targets})


async def snapshot(scene: Scene) -> None:
    await scene.ask("POST", f"{scene.path}/snapshot", {"generation": 1, "id": scene.snapshot})


async def start_from(scene: Scene) -> None:
    await scene.ask("PUT", f"/v1/sandboxes/{scene.other}", start(token(1), snapshot=scene.snapshot))


async def delete_snapshot(scene: Scene) -> None:
    await scene.ask("DELETE", f"/v1/snapshots/{scene.snapshot}")


async def kill(scene: Scene) -> None:
    await scene.ask("DELETE", f"{scene.path}?generation={scene.generation}")


async def rewire(scene: Scene) -> None:
    await scene.ask("PUT", f"{scene.path}/network", {"generation": 1, "network": NOWHERE})


async def prolong(scene: Scene) -> None:
    await scene.ask("POST", f"{scene.path}/timeout", {"generation": 1, "ttl_sec": 1000})


async def expire(scene: Scene, then: str) -> None:
    await scene.ask("POST", f"{scene.path}/timeout", {"generation": 1, "ttl_sec": 0, "on_timeout": then})


async def make_template(scene: Scene) -> None:
    await scene.ask("PUT", scene.path, start(token(1), disk_mb=FRESH_DISK_MB))


@dataclass(frozen=True, slots=True)
class Operation:
    prepare: Callable[[Scene], Awaitable[None]]
    act: Callable[[Scene], Awaitable[None]] | None
    """None: the agent dies while it starts."""
    subject: str = "id"
    """What the row's expectation is about: id, other, snapshot, or attempted. The sandbox itself runs on otherwise."""
    settings: dict[str, str] = field(default_factory=dict[str, str])
    """Of the agent that dies."""
    stores: bool = False
    """With an object store, as those before and after it."""


OPERATIONS = {
    "create": Operation(nothing, create),
    "create with a VM that stands by": Operation(
        nothing, create_again_and_again, "attempted", {"AGENT_WARM": "1"}
    ),
    "create with a VMM that waits": Operation(
        nothing, lambda scene: create_again_and_again(scene, 3.5), "attempted", A_SPARE
    ),
    "resume with a VMM that waits": Operation(
        Scene.rests, lambda scene: once_one_waits(scene, resume), settings=A_SPARE
    ),
    "fork with a VMM that waits": Operation(
        Scene.runs, lambda scene: once_one_waits(scene, fork), "other", A_SPARE
    ),
    "pause": Operation(Scene.runs, pause),
    "pause after a resume": Operation(Scene.has_resumed, pause),
    "pause of the disk alone": Operation(Scene.runs, lambda scene: pause(scene, memory=False)),
    "resume": Operation(Scene.rests, resume),
    "resume from the disk alone": Operation(lambda scene: scene.rests(memory=False), resume),
    "resume that boots": Operation(Scene.rests, lambda scene: resume(scene, memory=False)),
    "fork": Operation(Scene.runs, fork, "other"),
    "snapshot": Operation(Scene.runs, snapshot, "snapshot"),
    "create from a snapshot": Operation(Scene.is_saved, start_from, "other"),
    "delete of a snapshot": Operation(Scene.is_saved, delete_snapshot, "snapshot"),
    "upload": Operation(Scene.rests, store, stores=True),
    "fetch": Operation(Scene.is_in_the_store_alone, fetch, stores=True),
    "resume on another host": Operation(Scene.is_large_and_in_the_store_alone, resume_here, stores=True),
    "kill of a stored one": Operation(Scene.is_stored, kill, stores=True),
    "kill": Operation(Scene.runs, kill),
    "kill of a paused one": Operation(Scene.rests, kill),
    "rewire": Operation(Scene.runs, rewire),
    "timeout": Operation(Scene.runs, prolong),
    "end of its time by a kill": Operation(Scene.runs, lambda scene: expire(scene, "kill")),
    "end of its time by a pause": Operation(Scene.runs, lambda scene: expire(scene, "pause")),
    "making of a template": Operation(nothing, make_template),
    "restart": Operation(Scene.runs, None),
    "restart with a stray VM": Operation(Scene.is_stranded, None),
}


async def die(scene: Scene, operation: Operation, point: str) -> None:
    """Arranges the scene, and has an agent die at the point."""
    await arrange(scene, operation)
    agent = scene.agent
    with armed(agent, point, operation.settings):
        if operation.act is None:
            await agent.fall()
        else:
            await agent.start()
            await operation.act(scene)
            await agent.died()


async def stand_still(scene: Scene, operation: Operation, point: str, meanwhile: Callable[[], None]) -> None:
    """Arranges the scene, and has something happen to an agent that stands at the point and goes on then."""
    await arrange(scene, operation)
    agent = scene.agent
    with armed(agent, point, operation.settings | {crash.SIGNAL: "SIGSTOP"}):
        await agent.start()
    if agent.process is None or operation.act is None:
        raise AssertionError("an agent that does not serve does not stand still")
    acting = asyncio.ensure_future(operation.act(scene))
    await stands_still(agent.process.pid)
    try:
        meanwhile()
    finally:
        agent.process.send_signal(signal.SIGCONT)
    await acting


async def arrange(scene: Scene, operation: Operation) -> None:
    """All is ready, and no agent runs."""
    agent = scene.agent
    if operation.stores and agent.process is not None:
        await agent.end()
    agent.stores = operation.stores
    if agent.process is None:
        await agent.start()
    await operation.prepare(scene)
    if agent.process is not None:
        await agent.end()


@contextlib.contextmanager
def armed(agent: AgentProcess, point: str, settings: Mapping[str, str]) -> Generator[None]:
    """The next agent dies at the point."""
    agent.settings = {**settings, crash.VARIABLE: point}
    try:
        yield
    finally:
        agent.settings = {}
