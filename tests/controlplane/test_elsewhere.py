"""Sandboxes that go on on another host, from the object store: simulated hosts that share one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from support.simulated import Gate, World, eventually
from wrenn_server.controlplane.reconcile import hosts as reconcile_hosts
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SPECS, SimulatedAgent
from wrenn_server.hostagent.simulated_held import SimulatedStore
from wrenn_server.hostagent.simulated_host import SimulatedHost
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent as wire

SHARED = replace(SPECS, machine="x86_64/simulated", store="store")


@pytest.fixture
def objects() -> SimulatedStore:
    return SimulatedStore()


@asynccontextmanager
async def another(world: World, objects: SimulatedStore, **changes: Any) -> AsyncGenerator[SimulatedAgent]:
    host = SimulatedHost(store=objects)
    specs = replace(SHARED, **changes)
    host.machine = specs.machine
    async with world.host(host=host, specs=specs) as agent:
        yield agent


async def paused(world: World, agent: SimulatedAgent, **wanted: Any) -> str:
    """A paused sandbox on that host, the only one so far, in the store."""
    made = await world.new_sandbox(**wanted)
    sandbox_id = str(made["id"])
    assert sandbox_id in agent.host.held
    assert (await world.api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
    await agent.host.store(sandbox_id, wire.Store(generation=1))
    await agent.beat()
    return sandbox_id


async def lose(world: World, agent: SimulatedAgent) -> None:
    """The host falls silent."""
    await world.cp.db.execute(
        "UPDATE hosts SET last_heartbeat_at = now() - interval '1 hour' WHERE id = $1", agent.host_id
    )
    await reconcile_hosts.converge(world.cp)


async def resume(world: World, sandbox_id: str) -> Any:
    return await world.api.post(f"/v1/sandboxes/{sandbox_id}/resume")


async def test_a_paused_sandbox_of_a_lost_host_goes_on_on_another(
    world: World, objects: SimulatedStore
) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        async with another(world, objects) as second:
            await lose(world, first)
            assert await world.state(sandbox_id) == "paused", "it needs no certain host"
            answer = await resume(world, sandbox_id)
            assert (answer.status_code, answer.json()["status"]) == (200, "running")
            assert second.host.held[sandbox_id].report.generation == 2
            # The first one comes back, and is told to forget it; the store keeps what it has.
            assert sandbox_id in first.host.held
            await first.beat()
            assert sandbox_id not in first.host.held
            assert objects.sandboxes
            assert await world.state(sandbox_id) == "running"
            # Killed where it is now, it is gone everywhere.
            assert (await world.api.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
            assert not objects.sandboxes
            assert not second.host.held


async def test_a_fork_that_finds_it_gone_from_its_host_is_told_so(
    world: World, objects: SimulatedStore
) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        path = f"/v1/sandboxes/{sandbox_id}"
        assert (await resume(world, sandbox_id)).status_code == 200
        async with another(world, objects) as second:

            async def leaves(command: Command, _: str) -> None:
                if command is not Command.FORK:
                    return
                assert (await world.api.post(f"{path}/pause")).status_code == 200
                await first.host.store(sandbox_id, wire.Store(generation=2))
                await first.beat()
                await lose(world, first)
                assert (await resume(world, sandbox_id)).status_code == 200
                await first.beat()
                assert sandbox_id not in first.host.held

            first.host.before = leaves
            answer = await world.api.post(f"{path}/fork", {"count": 2})
            assert answer.status_code == 409, answer.text
            error = answer.json()["error"]
            assert (error["code"], error["retryable"]) == ("invalid_state", True)
            assert list(second.host.held) == [sandbox_id]
            assert [one["id"] for one in (await world.api.get("/v1/sandboxes")).json()] == [sandbox_id]
            # Asked again, it is forked where it is.
            assert len((await world.api.post(f"{path}/fork", {"count": 2})).json()) == 2


async def test_without_the_store_it_is_lost_until_its_host_returns(
    world: World, objects: SimulatedStore
) -> None:
    async with another(world, objects) as first, another(world, objects, store="other", machine="x") as _:
        made = (await world.new_sandbox())["id"]
        agent = first if made in first.host.held else _
        await world.api.post(f"/v1/sandboxes/{made}/pause")
        await lose(world, agent)
        assert await world.state(made) == "lost"
        await agent.beat()
        assert await world.state(made) == "paused"


@pytest.mark.parametrize("changes", [{"store": "another"}, {"machine": "x86_64/newer"}, {"store": ""}])
async def test_only_a_host_that_can_takes_it(
    world: World, objects: SimulatedStore, changes: dict[str, str]
) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        async with another(world, objects, **changes) as second:
            await lose(world, first)
            answer = await resume(world, sandbox_id)
            assert answer.status_code == 503
            assert not second.host.calls
            assert await world.state(sandbox_id) == "paused"
            await first.beat()
            assert (await resume(world, sandbox_id)).status_code == 200


async def test_a_full_host_gives_way_to_another(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects, cpus=1, memory_mb=2048) as first:
        sandbox_id = await paused(world, first)
        await world.cp.db.execute(
            "UPDATE hosts SET memory_mb_reserved = memory_mb * 2 WHERE id = $1", first.host_id
        )
        async with another(world, objects) as second:
            assert (await resume(world, sandbox_id)).status_code == 200
            assert sandbox_id in second.host.held
            await eventually(lambda: gone(first, sandbox_id))


async def gone(agent: SimulatedAgent, sandbox_id: str) -> bool:
    return sandbox_id not in agent.host.held


async def test_a_resume_that_fails_elsewhere_loses_nothing(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        async with another(world, objects) as second:
            await lose(world, first)
            objects.failing = Unavailable("the store is away", code="store_unavailable")
            assert (await resume(world, sandbox_id)).status_code == 503
            assert await world.state(sandbox_id) == "paused"
            await first.beat()
            assert sandbox_id in first.host.held, "the only copy that anybody can reach"
            objects.failing = None
            assert (await resume(world, sandbox_id)).status_code == 200
            assert first.host.held[sandbox_id].report.generation == 3, "where it never left"
            assert sandbox_id not in second.host.held


async def test_a_host_that_cannot_be_reached_is_not_waited_for(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        async with another(world, objects) as second:
            await world.cp.db.execute(
                "UPDATE hosts SET address = '127.0.0.1:1' WHERE id = $1", second.host_id
            )
            await lose(world, first)
            assert (await resume(world, sandbox_id)).status_code == 503
            assert await world.state(sandbox_id) == "paused"
            await second.beat()
            assert (await resume(world, sandbox_id)).status_code == 200


async def test_two_that_want_it_at_once_get_it_once(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        async with another(world, objects) as second, another(world, objects) as third:
            await lose(world, first)
            answers = await asyncio.gather(*(resume(world, sandbox_id) for _ in range(6)))
            assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
            running = [agent for agent in (second, third) if sandbox_id in agent.host.held]
            assert len(running) == 1


async def test_a_host_that_returns_in_the_middle_changes_nothing(
    world: World, objects: SimulatedStore
) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        async with another(world, objects) as second:
            await lose(world, first)
            second.host.before = (gate := Gate(Command.RESUME))
            resuming = asyncio.create_task(resume(world, sandbox_id))
            await gate.reached.wait()
            await first.beat()
            assert sandbox_id in first.host.held
            gate.open.set()
            assert (await resuming).status_code == 200
            await first.beat()
            assert sandbox_id not in first.host.held
            assert await world.state(sandbox_id) == "running"


async def test_a_lost_one_goes_back_to_what_is_stored_only_when_asked(
    world: World, objects: SimulatedStore
) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        assert (await resume(world, sandbox_id)).status_code == 200
        async with another(world, objects) as second:
            restore = f"/v1/sandboxes/{sandbox_id}/restore"
            assert (await world.api.post(restore)).status_code == 409, "it runs"
            await lose(world, first)
            assert await world.state(sandbox_id) == "lost"
            assert (await resume(world, sandbox_id)).status_code == 409
            answer = await world.api.post(restore)
            assert (answer.status_code, answer.json()["status"]) == (200, "running")
            assert second.host.held[sandbox_id].report.generation == 3
            assert first.host.held[sandbox_id].report.state is State.RUNNING
            await first.beat()
            assert sandbox_id not in first.host.held, "it was given up"
            assert await world.state(sandbox_id) == "running"


async def test_a_lost_one_that_was_never_stored_waits(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        sandbox_id = (await world.new_sandbox())["id"]
        await lose(world, first)
        assert (await world.api.post(f"/v1/sandboxes/{sandbox_id}/restore")).status_code == 409
        await first.beat()
        assert await world.state(sandbox_id) == "running"


async def test_what_is_stored_counts_only_at_its_generation(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        late = first.heartbeat()
        assert (await resume(world, sandbox_id)).status_code == 200
        assert (await world.api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
        # A report of before comes late, as the newest.
        late.sequence = first.heartbeat().sequence
        await first.control_plane.post(
            f"/v1/hosts/{first.host_id}/heartbeat", late, timeout=30, token=first.credentials.token
        )
        row = await db_sandboxes.get(world.cp.db, sandbox_id)
        assert row is not None
        assert (row.saved_generation, row.stored_generation, row.is_stored) == (2, 1, False)
        async with another(world, objects) as second:
            await lose(world, first)
            assert await world.state(sandbox_id) == "lost", (
                "what is stored is older than what was acknowledged"
            )
            assert not second.host.calls


async def test_a_snapshot_starts_where_it_is_not(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        source = (await world.new_sandbox())["id"]
        made = await world.api.post(f"/v1/sandboxes/{source}/snapshots", {"name": "mine"})
        assert made.status_code == 201
        snapshot_id = made.json()["id"]
        async with another(world, objects) as second:
            await lose(world, first)
            assert (await world.api.post("/v1/sandboxes", {"template": snapshot_id})).status_code == 503
            await first.host.store_snapshot(snapshot_id)
            await first.beat()
            on_first = await world.api.post("/v1/sandboxes", {"template": snapshot_id})
            assert on_first.json()["id"] in first.host.held, "where it lies, it is started"
            await lose(world, first)
            elsewhere = await world.api.post("/v1/sandboxes", {"template": snapshot_id})
            assert elsewhere.status_code == 201
            assert elsewhere.json()["id"] in second.host.held


async def test_a_host_that_is_removed_takes_nothing_stored_with_it(
    world: World, objects: SimulatedStore
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(another(world, objects))
        sandbox_id = await paused(world, first)
        second = await stack.enter_async_context(another(world, objects))
        removed = await world.user.delete(f"/v1/hosts/{first.host_id}?force=true")
        assert removed.status_code == 204
        assert await world.state(sandbox_id) == "paused"
        assert (await resume(world, sandbox_id)).status_code == 200
        assert sandbox_id in second.host.held


async def test_a_host_that_refuses_it_is_passed_over(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        async with another(world, objects) as second, another(world, objects) as third:
            await lose(world, first)
            refusing = [second, third]

            async def refuse(command: Command, id: str) -> None:
                if command is Command.RESUME and len(refusing) == 2:
                    refusing.pop()
                    raise Unavailable("another team uses this host", code="emulated_tenants")

            second.host.before = third.host.before = refuse
            assert (await resume(world, sandbox_id)).status_code == 200
            assert await world.state(sandbox_id) == "running"
            running = [a for a in (second, third) if a.host.held[sandbox_id].report.state is State.RUNNING]
            assert [agent.host.held[sandbox_id].report.generation for agent in running] == [3]
            for agent in (first, second, third):
                await agent.beat()
            assert [a for a in (first, second, third) if sandbox_id in a.host.held] == running


async def test_what_is_stored_is_written_once(world: World, objects: SimulatedStore) -> None:
    async with another(world, objects) as first:
        sandbox_id = await paused(world, first)
        before = await world.cp.db.fetchval("SELECT xmin::text FROM sandboxes WHERE id = $1", sandbox_id)
        await first.beat()
        assert (
            await world.cp.db.fetchval("SELECT xmin::text FROM sandboxes WHERE id = $1", sandbox_id) == before
        )
