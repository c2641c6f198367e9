"""Hosts that are to become empty: simulated hosts with one object store."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from controlplane.test_elsewhere import another, lose

from support.simulated import Gate, World, eventually
from wrenn_server.controlplane.reconcile import drains
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.hostagent.simulated_held import SimulatedStore
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.sandbox import State


@pytest.fixture
def objects() -> SimulatedStore:
    return SimulatedStore()


@pytest.fixture
async def first(world: World, objects: SimulatedStore) -> AsyncGenerator[SimulatedAgent]:
    async with another(world, objects) as agent:
        yield agent


async def sandboxes(world: World, *, running: int, paused: int) -> list[str]:
    made = [(await world.new_sandbox(timeout_sec=500))["id"] for _ in range(running + paused)]
    for sandbox_id in made[running:]:
        assert (await world.api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
    return made


async def drain(world: World, agent: SimulatedAgent) -> None:
    answer = await world.user.post(f"/v1/hosts/{agent.host_id}/drain")
    assert (answer.status_code, answer.json()["draining"]) == (200, True)


async def empty(world: World, agent: SimulatedAgent) -> bool:
    host = (await world.user.get(f"/v1/hosts/{agent.host_id}")).json()
    return host["sandboxes"] == 0 and not agent.host.held


async def test_everything_moves_and_is_what_it_was(
    world: World, first: SimulatedAgent, objects: SimulatedStore
) -> None:
    made = await sandboxes(world, running=5, paused=5)
    before = {id: (await world.api.get(f"/v1/sandboxes/{id}")).json() for id in made}
    async with another(world, objects) as second:
        await drain(world, first)
        await eventually(lambda: empty(world, first))
        for number, sandbox_id in enumerate(made):
            now = (await world.api.get(f"/v1/sandboxes/{sandbox_id}")).json()
            assert now["status"] == ("running" if number < 5 else "paused")
            assert now["id"] == before[sandbox_id]["id"]
            held = second.host.held[sandbox_id]
            assert (held.report.state, held.report.generation) == (
                (State.RUNNING, 2) if number < 5 else (State.PAUSED, 1)
            )
            if number < 5:
                assert 0 < (held.report.expires_at or 0) - _at(before[sandbox_id]["expires_at"]) + 1 < 2
        # The host may leave, and nothing new came to it.
        assert (await world.user.delete(f"/v1/hosts/{first.host_id}")).status_code == 204
        assert all(await asyncio.gather(*(resumes(world, id) for id in made[5:])))


def _at(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


async def resumes(world: World, sandbox_id: str) -> bool:
    return (await world.api.post(f"/v1/sandboxes/{sandbox_id}/resume")).status_code == 200


async def test_nothing_new_is_placed_there(world: World, first: SimulatedAgent) -> None:
    await drain(world, first)
    assert (await world.api.post("/v1/sandboxes", {})).status_code == 503
    await first.beat()
    assert (await world.api.post("/v1/sandboxes", {})).status_code == 503, "a heartbeat does not end it"
    answer = await world.user.delete(f"/v1/hosts/{first.host_id}/drain")
    assert answer.json()["draining"] is False
    await world.new_sandbox()


async def test_without_another_host_nothing_stops(world: World, first: SimulatedAgent) -> None:
    [running, paused] = await sandboxes(world, running=1, paused=1)
    await drain(world, first)
    await drains.converge(world.cp)
    assert await world.state(running) == "running"
    assert first.host.held[running].report.generation == 1, "it was not even paused"
    assert await resumes(world, paused), "it may, as long as nobody else can"


async def test_without_an_object_store_it_is_refused(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects, store="") as agent:
        url = f"/v1/hosts/{agent.host_id}/drain"
        await world.new_sandbox()
        answer = await world.user.post(url)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_object_store")


async def test_when_the_store_fails_it_runs_on_where_it_is(
    world: World, first: SimulatedAgent, objects: SimulatedStore
) -> None:
    [running] = await sandboxes(world, running=1, paused=0)
    async with another(world, objects) as second:
        objects.failing = Unavailable("the store is away", code="store_unavailable")
        await drain(world, first)
        await eventually(lambda: at(world, running, 2))
        assert first.host.held[running].report.state is State.RUNNING
        objects.failing = None
        await eventually(lambda: empty(world, first))
        assert second.host.held[running].report.state is State.RUNNING


async def at(world: World, sandbox_id: str, generation: int) -> bool:
    row = await db_sandboxes.get(world.cp.db, sandbox_id)
    return row is not None and row.generation >= generation and row.state is State.RUNNING


async def test_a_kill_in_the_middle_of_a_move_wins(
    world: World, first: SimulatedAgent, objects: SimulatedStore
) -> None:
    [running] = await sandboxes(world, running=1, paused=0)
    async with another(world, objects) as second:
        second.host.before = (gate := Gate(Command.RESUME))
        await drain(world, first)
        await gate.reached.wait()
        assert (await world.api.delete(f"/v1/sandboxes/{running}")).status_code == 204
        gate.open.set()
        await eventually(lambda: nowhere(running, first, second))
        assert await world.state(running) == "killed"


async def nowhere(sandbox_id: str, *agents: SimulatedAgent) -> bool:
    for agent in agents:
        await agent.beat()
    return all(sandbox_id not in agent.host.held for agent in agents)


async def test_what_somebody_died_over_runs_on(
    world: World, first: SimulatedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    [moving] = await sandboxes(world, running=1, paused=0)
    await world.api.post(f"/v1/sandboxes/{moving}/pause")
    await world.cp.db.execute("UPDATE sandboxes SET reason = 'drain' WHERE id = $1", moving)
    monkeypatch.setattr(drains, "INTERRUPTED_SEC", 0.0)
    await eventually(lambda: at(world, moving, 2))


async def test_its_snapshots_can_be_had_when_it_has_left(
    world: World, first: SimulatedAgent, objects: SimulatedStore
) -> None:
    [running] = await sandboxes(world, running=1, paused=0)
    snapshot_id = (await world.api.post(f"/v1/sandboxes/{running}/snapshots", {})).json()["id"]
    async with another(world, objects) as second:
        await drain(world, first)
        await eventually(lambda: empty(world, first))
        await lose(world, first)
        made = await world.new_sandbox(template=snapshot_id)
        assert made["id"] in second.host.held
