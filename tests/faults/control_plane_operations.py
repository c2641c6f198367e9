"""What a control plane is in the middle of when something fails, as in `agent_operations.py`; with a real PostgreSQL and
simulated hosts."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
from msgspec.structs import replace

from support.programs import age_moves
from support.simulated import PASSWORD, eventually
from wrenn_server.controlplane import app, bootstrap
from wrenn_server.controlplane.config import Config
from wrenn_server.db import pool
from wrenn_server.db.pool import Database
from wrenn_server.hostagent import simulated
from wrenn_server.hostagent.simulated import SPECS, SimulatedAgent
from wrenn_server.hostagent.simulated_held import SimulatedStore
from wrenn_server.hostagent.simulated_host import SimulatedHost
from wrenn_server.wire import agent as wire

NOWHERE = {"deny_out": ["0.0.0.0/0"]}
SHARED = replace(SPECS, machine="simulated", store="store")
"""Of hosts with one object store."""


@dataclass(slots=True)
class Scene:
    """One sandbox, and what the operation makes beside it."""

    db: Database
    agents: list[SimulatedAgent]
    """The first has everything; the second, if there is one, has come just now."""
    admin: str = field(repr=False)
    """Token of an administrator."""
    http: httpx2.AsyncClient = field(init=False)
    """With the API key of a team, to whichever control plane serves now."""
    id: str = ""
    snapshot: str = ""
    before: set[str] = field(default_factory=set[str])
    """Sandboxes that were there when the operation began."""
    acknowledged: bool = False
    """The client was told that it succeeded."""

    @property
    def path(self) -> str:
        return f"/v1/sandboxes/{self.id}"

    async def ask(self, method: str, path: str, body: Any = None) -> None:
        """A request whose end may never be told."""
        with suppress(httpx2.TransportError):
            response = await self.http.request(method, path, json=body)
            self.acknowledged = response.status_code < 300

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        response = await self.http.request(method, path, json=body)
        assert response.status_code < 300, response.text
        return response.json() if response.content else None

    async def sandbox(self, **wanted: Any) -> str:
        return (await self.ok("POST", "/v1/sandboxes", wanted))["id"]

    async def runs(self, **wanted: Any) -> None:
        self.id = await self.sandbox(**wanted)

    async def rests(self) -> None:
        await self.runs()
        await self.ok("POST", f"{self.path}/pause")

    async def is_saved(self) -> None:
        await self.runs()
        self.snapshot = (await self.ok("POST", f"{self.path}/snapshots", {}))["id"]

    async def states(self, *, ended: bool = False) -> dict[str, str]:
        query = "?status=running,paused,starting,pausing,resuming,killing,lost,failed,killed" if ended else ""
        return {s["id"]: s["status"] for s in await self.ok("GET", f"/v1/sandboxes{query}")}

    async def snapshots(self) -> set[str]:
        return {s["id"] for s in await self.ok("GET", "/v1/snapshots")}


Step = Callable[[Scene], Awaitable[None]]


async def nothing(_: Scene) -> None:
    pass


async def bystand(bystanders: Scene) -> None:
    bystanders.id = await bystanders.sandbox()
    await bystanders.rests()
    bystanders.before = {await bystanders.sandbox()}


async def left_in_the_middle(scene: Scene) -> None:
    await scene.db.execute(
        "UPDATE sandboxes SET state = 'pausing', check_after = now() WHERE id = $1", scene.id
    )


async def left_half_made(scene: Scene) -> None:
    await scene.db.execute(
        "UPDATE snapshots SET state = 'creating', check_after = now() WHERE id = $1", scene.snapshot
    )


async def rests_on_a_full_host(scene: Scene) -> None:
    """In the object store, too."""
    await scene.rests()
    host = scene.agents[0]
    await host.host.store(scene.id, wire.Store(generation=1))
    host.specs = replace(host.specs, memory_mb=1)
    await host.beat()


async def drain(scene: Scene) -> None:
    path = f"/v1/hosts/{scene.agents[0].host_id}/drain"
    # Without the team's API key, which would count before the administrator's token.
    async with httpx2.AsyncClient(base_url=scene.http.base_url, trust_env=False, timeout=30) as http:
        with suppress(httpx2.TransportError):
            await http.post(path, headers={"Authorization": f"Bearer {scene.admin}"})


def call(method: str, path: str, body: Any = None) -> Step:
    """:param path: with `{path}` of the sandbox, `{id}` and `{snapshot}`"""

    async def act(scene: Scene) -> None:
        wanted = {"template": scene.snapshot} if body == "snapshot" else body
        await scene.ask(method, path.format(path=scene.path, id=scene.id, snapshot=scene.snapshot), wanted)

    return act


@dataclass(frozen=True, slots=True)
class Operation:
    prepare: Step
    act: Step
    done: str
    """State of the subject when it has succeeded."""
    subject: str = "id"
    """What the row's expectation is about: id, new (sandboxes), or snapshot. The sandbox itself runs on otherwise."""
    hosts: int = 1
    """Of two, which share an object store, the first has everything."""


OPERATIONS = {
    "create": Operation(nothing, call("POST", "/v1/sandboxes", {}), "running", "new"),
    "create from a snapshot": Operation(
        Scene.is_saved, call("POST", "/v1/sandboxes", "snapshot"), "running", "new"
    ),
    "pause": Operation(Scene.runs, call("POST", "{path}/pause"), "paused"),
    "resume": Operation(Scene.rests, call("POST", "{path}/resume"), "running"),
    "fork": Operation(Scene.runs, call("POST", "{path}/fork", {"count": 2}), "running", "new"),
    "snapshot": Operation(Scene.runs, call("POST", "{path}/snapshots", {}), "ready", "snapshot"),
    "delete of a snapshot": Operation(
        Scene.is_saved, call("DELETE", "/v1/snapshots/{snapshot}"), "gone", "snapshot"
    ),
    "kill": Operation(Scene.runs, call("DELETE", "{path}"), "killed"),
    "kill of a paused one": Operation(Scene.rests, call("DELETE", "{path}"), "killed"),
    "timeout": Operation(Scene.runs, call("POST", "{path}/timeout", {"timeout_sec": 1000}), "running"),
    "network": Operation(Scene.runs, call("PUT", "{path}/network", NOWHERE), "running"),
    "end of its time by a kill": Operation(
        Scene.runs, call("POST", "/sandboxes/{id}/timeout", {"timeout": 0}), "killed"
    ),
    "end of its time by a pause": Operation(
        lambda scene: scene.runs(on_timeout="pause"),
        call("POST", "/sandboxes/{id}/timeout", {"timeout": 0}),
        "paused",
    ),
    "resume elsewhere": Operation(rests_on_a_full_host, call("POST", "{path}/resume"), "running", hosts=2),
    "move of a running one": Operation(Scene.runs, drain, "running", hosts=2),
    "move of a paused one": Operation(Scene.rests, drain, "paused", hosts=2),
    "reconciling of a sandbox": Operation(Scene.runs, left_in_the_middle, "running"),
    "reconciling of a snapshot": Operation(Scene.is_saved, left_half_made, "gone", "snapshot"),
}


@dataclass(slots=True)
class Stage:
    """The sandbox of the operation, and one that runs and one that is paused beside it."""

    config: Config
    database_url: str
    key: str = field(repr=False)
    scene: Scene
    bystanders: Scene
    operation: Operation

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """A control plane of this process."""
        async with app.serving(self.config, self.database_url), self.client():
            yield

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[None]:
        """A new one, so that no connection to an earlier control plane is used."""
        async with httpx2.AsyncClient(
            base_url=f"http://{self.config.listen}",
            trust_env=False,
            timeout=30,
            headers={"X-API-Key": self.key},
        ) as http:
            self.scene.http = self.bystanders.http = http
            yield

    async def act(self) -> None:
        await self.operation.act(self.scene)

    async def check(self, expected: str) -> None:
        """The contract holds, and nothing is left over. A control plane serves."""
        scene = self.scene
        wanted = self.operation.done if scene.acknowledged else expected
        await eventually(lambda: self._settled(wanted))
        if self.operation.subject != "id" and scene.id:
            assert (await scene.ok("GET", scene.path))["status"] == "running"
        await eventually(self._told)
        states = await scene.states()
        held = {id: held.report.state for agent in scene.agents for id, held in agent.host.held.items()}
        assert held == states
        assert {id for agent in scene.agents for id in agent.host.snapshots} == await scene.snapshots()
        for id in states:
            await scene.ok("DELETE", f"/v1/sandboxes/{id}")
        for id in await scene.snapshots():
            await scene.ok("DELETE", f"/v1/snapshots/{id}")
        await eventually(self._empty)
        assert await scene.db.fetchval("SELECT sum(memory_mb_reserved) FROM hosts") == 0

    async def _empty(self) -> bool:
        for agent in self.scene.agents:
            await agent.beat()
        return not any(agent.host.held or agent.host.snapshots for agent in self.scene.agents)

    async def _settled(self, expected: str) -> bool:
        """What the operation was about has come to that state, and those beside it are in theirs."""
        scene, bystanders = self.scene, self.bystanders
        await self._age()
        states = await scene.states(ended=True)
        if [states[bystanders.id], *(states[id] for id in bystanders.before)] != ["paused", "running"]:
            return False
        match self.operation.subject:
            case "id":
                return states[scene.id] == expected
            case "snapshot":
                left = await scene.db.fetchval("SELECT count(*) FROM snapshots")
                return (left, len(await scene.snapshots())) == ((1, 1) if expected == "ready" else (0, 0))
            case _:
                return {state for id, state in states.items() if id not in scene.before} == {expected}

    async def _age(self) -> None:
        """Which of a host's sandboxes a control plane died over is chance: it is not always the one that is looked at."""
        if self.operation.act is drain:
            await age_moves(self.scene.db)

    async def _told(self) -> bool:
        """The hosts have told what they have, and nothing is on two; one that is to become empty is."""
        await self._age()
        for agent in self.scene.agents:
            await agent.beat()
        held = [id for agent in self.scene.agents for id in agent.host.held]
        emptied = self.operation.act is not drain or not self.scene.agents[0].host.held
        return emptied and len(held) == len(set(held))


@asynccontextmanager
async def arranged(operation: Operation, database_url: str, port: int) -> AsyncGenerator[Stage]:
    """All is ready for the operation, and no control plane serves."""
    config = Config(listen=f"127.0.0.1:{port}")
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(pool.connect(database_url))
        admin = await bootstrap.bootstrap(db, "admin@example.com", PASSWORD)
        agents: list[SimulatedAgent] = []
        scene, bystanders = (Scene(db, agents, admin="") for _ in range(2))
        stage = Stage(config, database_url, admin.api_key, scene, bystanders, operation)
        objects = SimulatedStore() if operation.hosts > 1 else None

        async def host() -> None:
            token = (await bootstrap.create_host(db)).registration_token
            agents.append(
                await stack.enter_async_context(
                    simulated.running(
                        f"http://{config.listen}",
                        token,
                        host=SimulatedHost(store=objects),
                        specs=SPECS if objects is None else SHARED,
                    )
                )
            )

        async with stage.serving():
            login = {"email": admin.admin_email, "password": admin.admin_password}
            scene.admin = (await scene.ok("POST", "/v1/auth/login", login))["token"]
            await host()
            await bystand(bystanders)
            await operation.prepare(scene)
            if objects is not None:
                await host()
            scene.before = set(await scene.states())
        yield stage
