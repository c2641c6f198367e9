"""Control planes that die at a point of an operation, as processes with a real PostgreSQL and a simulated host, and those
that come after them."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from faults.control_plane_matrix import MATRIX
from faults.matrix import ROUNDS, Row, runs
from faults.results import Results

from support.programs import age_leases, program
from support.simulated import PASSWORD, eventually
from wrenn_server.controlplane import app, bootstrap
from wrenn_server.controlplane.config import Config
from wrenn_server.db import pool
from wrenn_server.db.pool import Database
from wrenn_server.hostagent import simulated
from wrenn_server.linux import crash

NOWHERE = {"deny_out": ["0.0.0.0/0"]}


@dataclass(slots=True)
class Scene:
    """One sandbox, and what the operation makes beside it."""

    db: Database
    http: httpx2.AsyncClient = field(init=False)
    """With the API key of a team, to whichever control plane serves now."""
    id: str = ""
    snapshot: str = ""
    before: set[str] = field(default_factory=set[str])
    """Sandboxes that were there when the operation began."""

    @property
    def path(self) -> str:
        return f"/v1/sandboxes/{self.id}"

    async def ask(self, method: str, path: str, body: Any = None) -> None:
        """A request that the control plane does not survive."""
        with suppress(httpx2.TransportError):
            await self.http.request(method, path, json=body)

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


async def left_in_the_middle(scene: Scene) -> None:
    await scene.db.execute(
        "UPDATE sandboxes SET state = 'pausing', check_after = now() WHERE id = $1", scene.id
    )


async def left_half_made(scene: Scene) -> None:
    await scene.db.execute(
        "UPDATE snapshots SET state = 'creating', check_after = now() WHERE id = $1", scene.snapshot
    )


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
    subject: str = "id"
    """What the row's expectation is about: id, new (sandboxes), or snapshot. The sandbox itself runs on otherwise."""


OPERATIONS = {
    "create": Operation(nothing, call("POST", "/v1/sandboxes", {}), "new"),
    "create from a snapshot": Operation(Scene.is_saved, call("POST", "/v1/sandboxes", "snapshot"), "new"),
    "pause": Operation(Scene.runs, call("POST", "{path}/pause")),
    "resume": Operation(Scene.rests, call("POST", "{path}/resume")),
    "fork": Operation(Scene.runs, call("POST", "{path}/fork", {"count": 2}), "new"),
    "snapshot": Operation(Scene.runs, call("POST", "{path}/snapshots", {}), "snapshot"),
    "delete of a snapshot": Operation(Scene.is_saved, call("DELETE", "/v1/snapshots/{snapshot}"), "snapshot"),
    "kill": Operation(Scene.runs, call("DELETE", "{path}")),
    "kill of a paused one": Operation(Scene.rests, call("DELETE", "{path}")),
    "timeout": Operation(Scene.runs, call("POST", "{path}/timeout", {"timeout_sec": 1000})),
    "network": Operation(Scene.runs, call("PUT", "{path}/network", NOWHERE)),
    "end of its time by a kill": Operation(
        Scene.runs, call("POST", "/sandboxes/{id}/timeout", {"timeout": 0})
    ),
    "end of its time by a pause": Operation(
        lambda scene: scene.runs(on_timeout="pause"), call("POST", "/sandboxes/{id}/timeout", {"timeout": 0})
    ),
    "reconciling of a sandbox": Operation(Scene.runs, left_in_the_middle),
    "reconciling of a snapshot": Operation(Scene.is_saved, left_half_made, "snapshot"),
}


@pytest.fixture(scope="module")
def results() -> Generator[Results]:
    results = Results("control plane")
    yield results
    if ROUNDS:
        results.write(MATRIX)


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(MATRIX)]
)
async def test_what_the_next_control_plane_makes_of_it(
    database_url: str, tmp_path: Path, port: int, results: Results, row: Row, number: int
) -> None:
    operation, config = OPERATIONS[row.operation], Config(listen=f"127.0.0.1:{port}")
    async with AsyncExitStack() as stack:
        stack.enter_context(results.of(row))
        db = await stack.enter_async_context(pool.connect(database_url))
        key = (await bootstrap.bootstrap(db, "admin@example.com", PASSWORD)).api_key
        token = (await bootstrap.create_host(db)).registration_token
        scene, bystanders = Scene(db), Scene(db)
        async with serving(config, database_url, key, scene, bystanders):
            agent = await stack.enter_async_context(simulated.running(f"http://{config.listen}", token))
            bystanders.id = await bystanders.sandbox()
            await bystanders.rests()
            bystanders.before = {await bystanders.sandbox()}
            await operation.prepare(scene)
            scene.before = set(await scene.states())
        fatal = {crash.VARIABLE: row.point}
        async with program(database_url, tmp_path, port, **fatal) as process:
            async with client(config, key, scene), asyncio.timeout(30):
                await operation.act(scene)
                assert await process.wait() == -signal.SIGKILL
        await age_leases(db)
        async with serving(config, database_url, key, scene, bystanders):
            await verified(scene, operation, row.expected)
            await agent.beat()
            states = await scene.states()
            assert [states[bystanders.id], *(states[id] for id in bystanders.before)] == ["paused", "running"]
            assert {id: held.report.state for id, held in agent.host.held.items()} == states
            assert set(agent.host.snapshots) == await scene.snapshots()
            await cleared(scene)
            assert (agent.host.held, agent.host.snapshots) == ({}, {})
            assert await db.fetchval("SELECT memory_mb_reserved FROM hosts") == 0


@asynccontextmanager
async def serving(config: Config, database_url: str, key: str, *scenes: Scene) -> AsyncGenerator[None]:
    """A control plane that the scenes ask."""
    async with app.serving(config, database_url), client(config, key, *scenes):
        yield


@asynccontextmanager
async def client(config: Config, key: str, *scenes: Scene) -> AsyncGenerator[None]:
    """A new one, so that no connection to an earlier control plane is used."""
    async with httpx2.AsyncClient(
        base_url=f"http://{config.listen}", trust_env=False, timeout=30, headers={"X-API-Key": key}
    ) as http:
        for scene in scenes:
            scene.http = http
        yield


async def verified(scene: Scene, operation: Operation, expected: str) -> None:
    """What the operation was about has come to that state."""

    async def settled() -> bool:
        match operation.subject:
            case "id":
                found = {scene.id: (await scene.ok("GET", scene.path))["status"]}
            case "snapshot":
                snapshots = await scene.ok("GET", "/v1/snapshots")
                left = await scene.db.fetchval("SELECT count(*) FROM snapshots")
                return (left, len(snapshots)) == ((1, 1) if expected == "ready" else (0, 0))
            case _:
                states = await scene.states(ended=True)
                found = {id: state for id, state in states.items() if id not in scene.before}
        return set(found.values()) == {expected}

    await eventually(settled)
    if operation.subject != "id":
        assert (await scene.ok("GET", scene.path))["status"] == "running" if scene.id else True


async def cleared(scene: Scene) -> None:
    """Every sandbox can be killed, and every snapshot deleted, whatever happened to it."""
    for id in await scene.states():
        await scene.ok("DELETE", f"/v1/sandboxes/{id}")
    for id in await scene.snapshots():
        await scene.ok("DELETE", f"/v1/snapshots/{id}")
