"""The control plane is killed in the middle of things; the next one finishes or undoes them."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from support.api import Client
from support.programs import age_leases, port, program
from support.simulated import PASSWORD, Gate, eventually
from wrenn_server.controlplane import bootstrap
from wrenn_server.db import leases, pool
from wrenn_server.db.pool import Database
from wrenn_server.hostagent import simulated
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent


class Cut:
    """What a client sees when the control plane is killed under it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def post(self, path: str, body: object = None) -> None:
        with pytest.raises(httpx2.TransportError):
            await self.client.post(path, body)


__all__ = ["port"]


@asynccontextmanager
async def arranged(
    database_url: str, directory: Path, port: int
) -> AsyncGenerator[tuple[asyncio.subprocess.Process, Client, SimulatedAgent, Database], None]:
    url = f"http://127.0.0.1:{port}"
    async with (
        pool.connect(database_url) as db,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
    ):
        admin = await bootstrap.bootstrap(db, "admin@example.com", PASSWORD)
        token = (await bootstrap.create_host(db)).registration_token
        api = Client(http).with_key(admin.api_key)
        async with (
            program(database_url, directory, port) as process,
            simulated.running(url, token) as agent,
        ):
            yield process, api, agent, db


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_in_the_middle_of_a_create(
    database_url: str, tmp_path: Path, port: int, when: str
) -> None:
    async with arranged(database_url, tmp_path, port) as (process, api, agent, db):
        gate = Gate(Command.START)
        setattr(agent.host, when, gate)
        create = asyncio.create_task(Cut(api).post("/v1/sandboxes", {}))
        await gate.reached.wait()
        process.kill()
        await process.wait()
        await create
        if when == "before":
            gate.open.set()  # the start goes on at the host, although nobody waits for it
        rows = await leases.claim(db, 10)
        assert rows == [], "its lease has not run out"
        await age_leases(db)
        async with program(database_url, tmp_path, port):

            async def settled() -> bool:
                return (await api.get("/v1/sandboxes")).json() != [] and all(
                    s["status"] == "running" for s in (await api.get("/v1/sandboxes")).json()
                )

            await eventually(settled)
            gate.open.set()
            (sandbox,) = (await api.get("/v1/sandboxes")).json()
            assert list(agent.host.held) == [sandbox["id"]]
            assert (await api.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204
            assert agent.host.held == {}


async def test_killed_before_the_host_heard_of_it(database_url: str, tmp_path: Path, port: int) -> None:
    async with arranged(database_url, tmp_path, port) as (process, api, agent, db):
        gate, late = Gate(Command.START), asyncio.Event()

        async def hold(command: Command, sandbox_id: str) -> None:
            await gate(command, sandbox_id)
            if command is Command.START:
                late.set()

        agent.host.before = hold
        create = asyncio.create_task(Cut(api).post("/v1/sandboxes", {}))
        await gate.reached.wait()
        process.kill()
        await process.wait()
        await create
        await age_leases(db)
        async with program(database_url, tmp_path, port):  # the start still waits in the host

            async def undone() -> bool:
                return [s["reason"] for s in (await api.get("/v1/sandboxes?status=failed")).json()] == [
                    "start_failed"
                ]

            await eventually(undone)
            gate.open.set()  # and now comes too late: the host knows that it was called off
            await late.wait()
            await agent.beat()
            assert agent.host.held == {}
            assert await db.fetchval("SELECT memory_mb_reserved FROM hosts") == 0


@pytest.mark.parametrize(("verb", "command"), [("pause", Command.PAUSE), ("resume", Command.RESUME)])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_in_the_middle_of_a_pause_or_resume(
    database_url: str, tmp_path: Path, port: int, verb: str, command: Command, when: str
) -> None:
    async with arranged(database_url, tmp_path, port) as (process, api, agent, db):
        sandbox = (await api.post("/v1/sandboxes", {})).json()
        path = f"/v1/sandboxes/{sandbox['id']}"
        if verb == "resume":
            await api.post(f"{path}/pause")
        gate = Gate(command)
        setattr(agent.host, when, gate)
        call = asyncio.create_task(Cut(api).post(f"{path}/{verb}"))
        await gate.reached.wait()
        process.kill()
        await process.wait()
        await call
        await age_leases(db)
        async with program(database_url, tmp_path, port):
            done = {"pause": "paused", "resume": "running"}[verb]
            undone = {"pause": "running", "resume": "paused"}[verb]
            expected = done if when == "after" else undone

            async def settled() -> bool:
                return (await api.get(path)).json()["status"] == expected

            await eventually(settled)
            agent.host.before = agent.host.after = Gate()
            gate.open.set()
            assert (await api.delete(path)).status_code == 204


async def test_killed_in_the_middle_of_a_delete(database_url: str, tmp_path: Path, port: int) -> None:
    async with arranged(database_url, tmp_path, port) as (process, api, agent, db):
        sandbox = (await api.post("/v1/sandboxes", {})).json()
        agent.host.before = gate = Gate(Command.KILL)

        async def delete() -> None:
            with pytest.raises(httpx2.TransportError):
                await api.delete(f"/v1/sandboxes/{sandbox['id']}")

        call = asyncio.create_task(delete())
        await gate.reached.wait()
        process.kill()
        await process.wait()
        await call
        agent.host.before = Gate()
        await age_leases(db)
        async with program(database_url, tmp_path, port):

            async def killed() -> bool:
                return (await api.get(f"/v1/sandboxes/{sandbox['id']}")).json()["status"] == "killed"

            await eventually(killed)
        gate.open.set()


async def test_sigterm_lets_work_in_flight_finish(database_url: str, tmp_path: Path, port: int) -> None:
    async with arranged(database_url, tmp_path, port) as (process, api, agent, _):
        agent.host.before = gate = Gate(Command.START)
        create = asyncio.create_task(api.post("/v1/sandboxes", {}))
        await gate.reached.wait()
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        gate.open.set()
        assert (await create).status_code == 201
        assert await process.wait() == 0
