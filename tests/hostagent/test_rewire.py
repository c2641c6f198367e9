"""What sandboxes may reach: in force before they run, changed while they do, and never forgotten."""

import asyncio
from typing import cast

import pytest
from hostagent.world import ID, OTHER, World, fork, pause, refused, resume, start

from wrenn_server.model.errors import Internal
from wrenn_server.model.ids import new_snapshot_id
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent as wire

CLOSED = wire.Network(internet=False)
SOME = wire.Network(deny_out=["192.0.2.0/24"])


def in_force(world: World, id: str = ID) -> wire.Network | None:
    slot = world.vm(id).place.netns.name.removeprefix("wrenn-test-")
    return world.slots.networks.get(int(slot))


def rewire(network: wire.Network, generation: int = 1) -> wire.Rewire:
    return wire.Rewire(generation=generation, network=network)


async def test_the_rules_are_in_force_before_the_vm_runs(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        reached, go = world.hold("vm")
        starting = asyncio.create_task(agent.start(ID, start(network=CLOSED)))
        await reached.wait()
        assert CLOSED in world.slots.networks.values()
        go.set()
        await starting


async def test_they_follow_the_sandbox_through_all_its_lives(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(network=CLOSED))
        await agent.fork(ID, fork(1, OTHER))
        assert (in_force(world), in_force(world, OTHER)) == (CLOSED, CLOSED)
        await agent.rewire(ID, rewire(SOME))
        assert (in_force(world), in_force(world, OTHER)) == (SOME, CLOSED)
        await agent.pause(ID, pause())
    async with world.agent() as agent:
        await agent.resume(ID, resume(2))
        assert in_force(world) == SOME
        world.slots.networks.clear()
    async with world.agent() as agent:
        assert (in_force(world), in_force(world, OTHER)) == (SOME, CLOSED)
        await agent.pause(ID, pause(2))
        await agent.resume(ID, resume(3, network=CLOSED))
        assert in_force(world) == CLOSED


async def test_a_snapshot_does_not_carry_them(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(network=CLOSED))
        snapshot = new_snapshot_id()
        await agent.snapshot(ID, wire.Snapshot(generation=1, id=snapshot))
        await agent.start(OTHER, start(snapshot=snapshot, network=SOME))
        assert in_force(world, OTHER) == SOME


async def test_rules_that_cannot_be_put_in_force_leave_the_old_ones(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(network=CLOSED))
        world.slots.egress_error = Internal("the kernel refused", code="rewire_failed")
        assert await refused(agent.rewire(ID, rewire(SOME))) == "rewire_failed"
        entry = world.entry()
        assert entry is not None
        assert (in_force(world), entry.network, agent.get(ID).state) == (CLOSED, CLOSED, State.RUNNING)


async def test_without_rules_there_is_no_sandbox(world: World) -> None:
    async with world.agent() as agent:
        world.slots.egress_error = Internal("the kernel refused", code="egress_failed")
        assert await refused(agent.start(ID, start(network=CLOSED))) == "egress_failed"
        assert (world.traces(), world.slots.used) == ([], set())
        world.slots.egress_error = None
        await agent.start(ID, start(network=CLOSED))
    world.slots.egress_error = Internal("the kernel refused", code="egress_failed")
    async with world.agent() as agent:
        assert agent.get(ID).state is State.FAILED
        assert world.vms == {}


async def test_an_intent_that_was_left_is_carried_out_by_the_next_agent(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        reached, _ = world.hold("egress")
        rewiring = asyncio.create_task(agent.rewire(ID, rewire(CLOSED)))
        await reached.wait()
        entry = world.entry()
        assert entry is not None
        assert entry.network == CLOSED
        del world.gates["egress"]
        for task in cast("set[asyncio.Task[None]]", asyncio.all_tasks()):
            if task.get_name() == f"own {ID}":
                task.cancel()
        assert await refused(rewiring) == "host_unavailable"
    async with world.agent():
        assert in_force(world) == CLOSED


@pytest.mark.parametrize(
    ("generation", "code"), [(1, "stale_generation"), (3, "unknown_generation"), (2, "invalid_state")]
)
async def test_it_is_fenced_as_all_commands_are(world: World, generation: int, code: str) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.pause(ID, pause())
        await agent.resume(ID, resume(2))
        if code == "invalid_state":
            await agent.pause(ID, pause(2))
        assert await refused(agent.rewire(ID, rewire(CLOSED, generation))) == code
