"""Two control planes on one database, as processes, that are killed in turns under a load of everything that a sandbox
goes through. `WRENN_TEST_KILLS=30`: for a minute, where a control plane starts within two seconds."""

import asyncio
import itertools
import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.api import check_response
from support.programs import program
from support.simulated import PASSWORD, eventually
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.services import audit
from wrenn_server.db import pool
from wrenn_server.db.pool import Database
from wrenn_server.hostagent import simulated
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import WrennError
from wrenn_server.up.demo import free_port

KILLS = int(os.environ.get("WRENN_TEST_KILLS", "3"))
BETWEEN = 2.0
"""Seconds from one kill to the next, if what was killed serves again by then."""
CLIENTS = 4
ROOM = 3
"""Sandboxes that the pool has room for: fewer than there are clients."""
SMALL = {"vcpus": 1, "memory_mb": 512, "disk_mb": 5120}
ANSWER = 60.0
"""Seconds; what a dead control plane was at is left alone for 15."""
REFUSALS = {
    "pool_exhausted",
    "pool_below_draw",
    "host_unavailable",
    "no_capacity",
    "database_unavailable",
    "invalid_state",
}


@dataclass(slots=True)
class Plane:
    """A control plane that can be killed and started again, on the same port."""

    database_url: str
    directory: Path
    port: int
    life: AsyncExitStack = field(default_factory=AsyncExitStack)
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when it serves."""
        entered = program(self.database_url, self.directory, self.port)
        self.process = await self.life.enter_async_context(entered)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.life.aclose()
        assert self.process.returncode == -signal.SIGKILL, "it had ended by itself"


@dataclass(slots=True)
class Load:
    """What clients asked for and were told."""

    clients: list[httpx2.AsyncClient]
    """One for each control plane."""
    key: str = field(repr=False)
    token: str = field(default="", repr=False)
    """Of the owner, who buys."""
    turns: "itertools.count[int]" = field(default_factory=itertools.count)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    answers: Counter[str] = field(default_factory=Counter[str])
    made: dict[str, str] = field(default_factory=dict[str, str])
    """Sandboxes by the key of the create."""
    told: set[str] = field(default_factory=set[str])
    """Ids of requests that were answered with a success."""

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx2.Response | None:
        """To the control planes in turns. None: it was cut off, which the client sees at once."""
        plane = self.clients[next(self.turns) % 2]
        try:
            answer = await plane.request(method, path, json=body, headers=headers or {"X-API-Key": self.key})
        except httpx2.TimeoutException:
            raise AssertionError(f"{method} {path} has no answer and no error") from None
        except httpx2.TransportError:
            self.answers["cut off"] += 1
            await asyncio.sleep(0.2)  # both may be starting
            return None
        check_response(method, path, answer)
        if answer.status_code >= 300:
            code = answer.json()["error"]["code"]
            self.answers[f"{answer.status_code} {code}"] += 1
            assert answer.status_code == 404 or code in REFUSALS, answer.text
        else:
            self.answers[str(answer.status_code)] += 1
            self.told.add(answer.headers["x-request-id"])
        return answer

    async def logs_in(self, email: str) -> None:
        answer = await self.ask("POST", "/v1/auth/login", {"email": email, "password": PASSWORD})
        assert answer is not None
        self.token = answer.json()["token"]

    async def create(self) -> str | None:
        """The same request until it is answered, and once more. None: there was no room."""
        key = uuid.uuid4().hex
        headers = {"X-API-Key": self.key, "Idempotency-Key": key}
        while (answer := await self.ask("POST", "/v1/sandboxes", {}, headers)) is None:
            pass
        if answer.status_code != 201:
            return None
        self.made[key] = answer.json()["id"]
        again = await self.ask("POST", "/v1/sandboxes", {}, headers)
        assert again is None or again.json()["id"] == self.made[key]
        return self.made[key]

    async def delete(self, path: str) -> None:
        """Until it is gone."""
        async with asyncio.timeout(ANSWER):
            while True:
                answer = await self.ask("DELETE", path)
                if answer is not None and answer.status_code in (204, 404):
                    return
                await asyncio.sleep(0.1)

    async def client(self) -> None:
        """Sandboxes, one after the other, each through its whole life."""
        while not self.stop.is_set():
            id = await self.create()
            if id is None:
                continue
            path = f"/v1/sandboxes/{id}"
            await self.ask("POST", f"{path}/pause")
            await self.ask("POST", f"{path}/resume")
            await self.delete(path)

    async def buyer(self) -> None:
        """Has the pool grow and shrink, which charges what it cost until then."""
        for size in itertools.cycle((ROOM, ROOM + 1)):
            if self.stop.is_set():
                return
            wanted = {name: size * value for name, value in SMALL.items()}
            await self.ask("PUT", "/v1/pool", wanted, {"Authorization": f"Bearer {self.token}"})
            await asyncio.sleep(0.3)


@asynccontextmanager
async def beating(agents: list[SimulatedAgent], planes: list[Plane]) -> AsyncGenerator[None]:
    """Heartbeats to whichever control plane serves, as through a load balancer."""

    async def beat(agent: SimulatedAgent) -> None:
        for turn in itertools.count():
            agent.control_plane = ControlPlane(planes[turn % 2].url)
            with suppress(WrennError, OSError, TimeoutError):
                await agent.beat()
            await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(beat(agent)) for agent in agents]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def storm(planes: list[Plane]) -> None:
    """Kills them in turns, each when the one before serves again."""
    clock = asyncio.get_running_loop()
    for number in range(KILLS):
        began = clock.time()
        plane = planes[number % 2]
        await plane.kill()
        await plane.start()
        await asyncio.sleep(began + BETWEEN - clock.time())


@pytest.mark.timeout(120 + 30 * KILLS)
async def test_killed_in_turns_under_load(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(pool.connect(database_url))
        admin = await bootstrap.bootstrap(db, "admin@example.com", PASSWORD)
        planes: list[Plane] = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            plane = Plane(database_url, tmp_path / name, free_port())
            await stack.enter_async_context(plane.life)
            await plane.start()
            planes.append(plane)
        agents: list[SimulatedAgent] = []
        for _ in range(2):
            token = (await bootstrap.create_host(db)).registration_token
            agents.append(await stack.enter_async_context(simulated.running(planes[0].url, token)))
        await stack.enter_async_context(beating(agents, planes))

        clients = [
            await stack.enter_async_context(
                httpx2.AsyncClient(base_url=plane.url, trust_env=False, timeout=ANSWER)
            )
            for plane in planes
        ]
        load = Load(clients, admin.api_key)
        await load.logs_in(admin.admin_email)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.buyer())
            for _ in range(CLIENTS):
                tasks.create_task(load.client())
            await storm(planes)
            load.stop.set()
        assert load.answers["cut off"], "the kills hit nothing"
        print(f"{KILLS} kills, {len(load.made)} sandboxes, {dict(load.answers)}")

        async def over() -> bool:
            ended = await db.fetchval("SELECT bool_and(state IN ('killed', 'failed')) FROM sandboxes")
            return ended and not any(agent.host.held for agent in agents)

        await eventually(over, within=60)
        await nothing_twice(db, load, agents)
        await draws_fit(db)
        await ledger_balances(db)
        verified = await audit.verify(db)
        assert verified.heads
        assert verified.broken == []


async def nothing_twice(db: Database, load: Load, agents: list[SimulatedAgent]) -> None:
    """One sandbox for each key, on one host; each change of state told once; each answer once in the audit log."""
    made = {record["id"] for record in await db.fetch("SELECT id FROM sandboxes WHERE state = 'killed'")}
    assert made == set(load.made.values())
    assert len(made) == len(load.made)
    placed = [{id for command, id, _ in agent.host.calls if command is Command.START} for agent in agents]
    assert not placed[0] & placed[1]
    changes = await db.fetch(
        """SELECT resource_id, type, sandbox ->> 'state', outcome, count(*) FROM events
            WHERE resource_id = ANY($1) GROUP BY 1, 2, 3, 4 HAVING count(*) > 1""",
        list(made),
    )
    assert changes == [], "each client asks for each change once"
    logged = Counter(record["request_id"] for record in await db.fetch("SELECT request_id FROM audit_logs"))
    assert {id for id in load.told if logged[id] != 1} == set()


async def draws_fit(db: Database) -> None:
    """Nothing is drawn any more, and added up from the draws themselves, the pool was never overdrawn."""
    [now] = await db.fetch("SELECT vcpus_drawn, memory_mb_drawn, disk_mb_drawn FROM pools")
    assert tuple(now) == (0, 0, 0)
    assert await db.fetchval("SELECT sum(memory_mb_reserved) FROM hosts") == 0
    assert await db.fetchval("SELECT count(*) FROM draws WHERE ended_at IS NULL") == 0
    steps: list[tuple[Any, int]] = []
    for draw in await db.fetch("SELECT disk_mb, began_at, ended_at FROM draws"):
        steps += [(draw["began_at"], draw["disk_mb"]), (draw["ended_at"], -draw["disk_mb"])]
    most = max(itertools.accumulate(change for _, change in sorted(steps)))
    assert 0 < most <= (ROOM + 1) * SMALL["disk_mb"]


async def ledger_balances(db: Database) -> None:
    """Every transaction sums up to nothing, and the times follow each other without gap and overlap."""
    assert (
        await db.fetch("SELECT 1 FROM ledger_entries GROUP BY transaction_id HAVING sum(amount) <> 0") == []
    )
    charged = await db.fetch("SELECT period_from, period_to FROM ledger_transactions ORDER BY period_from")
    assert len(charged) > 1
    assert all(before["period_to"] == after["period_from"] for before, after in itertools.pairwise(charged))
