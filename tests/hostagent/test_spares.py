"""VMMs that are started before anybody asks for them."""

import asyncio
from contextlib import suppress

import pytest
from hostagent.fake_vmm import FakeVm
from hostagent.world import ID, OTHER, THIRD, VmmError, World, fork, pause, refused, resume, start

from wrenn_server.hostagent.sandbox.warm import RETRY
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire

FOURTH = "sb" + "d" * 20
KNOWN = {ID, OTHER, THIRD, FOURTH}


def waiting(world: World) -> list[FakeVm]:
    """Those that have loaded nothing."""
    return [vm for vm in world.vms.values() if vm.place.id not in KNOWN and vm.envd.port == 0]


async def until_some_wait(world: World, count: int = 1) -> list[FakeVm]:
    """There is nothing to wait on: nobody is told of a VMM that is nobody's."""
    async with asyncio.timeout(10):
        while len(waiting(world)) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return waiting(world)


def place(world: World, id: str) -> str | None:
    entry = world.entry(id)
    assert entry is not None
    return entry.place


async def test_the_next_create_loads_what_waits(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        assert place(world, ID) is None
        [spare] = await until_some_wait(world)
        network = wire.Network(internet=False)
        report = await registry.start(OTHER, start(network=network))
        assert report.state is State.RUNNING
        assert place(world, OTHER) == spare.place.id
        assert (spare.spec.overlay, spare.stopped) == (world.paths.overlay(OTHER), False)
        assert spare.envd.inits[-1]["hostname"] == OTHER
        assert world.slots.networks[registry.reach(OTHER).slot.index] == network
        [other] = await until_some_wait(world)
        await registry.kill(OTHER, 1)
        assert not spare.alive
        assert other.alive
        assert world.traces(OTHER) == world.traces(spare.place.id) == []


async def test_so_do_forks_and_resumes(world: World) -> None:
    async with world.agent(spares=3) as registry:
        await registry.start(ID, start())
        await registry.start(OTHER, start())
        await registry.start(THIRD, start())
        await registry.kill(THIRD, 1)
        spares = {vm.place.id for vm in await until_some_wait(world, 3)}
        report = await registry.fork(ID, fork(1, FOURTH))
        assert [result.error_code for result in report.results] == [None]
        assert place(world, FOURTH) in spares
        await registry.pause(OTHER, pause())
        assert place(world, OTHER) is None
        await registry.resume(OTHER, resume(2))
        assert place(world, OTHER) in spares - {place(world, FOURTH)}
        assert registry.get(OTHER).state is State.RUNNING


async def test_as_many_wait_as_were_wanted(world: World) -> None:
    async with world.agent(spares=8) as registry:
        await registry.start(ID, start())
        await until_some_wait(world, 1)
        await registry.fork(ID, fork(1, OTHER, THIRD, FOURTH))
        await until_some_wait(world, 4)


async def test_another_memory_or_shape_gets_none(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        [spare] = await until_some_wait(world)
        await registry.start(OTHER, start(memory_mb=256))
        assert place(world, OTHER) is None
        assert spare.envd.port == 0


async def test_what_boots_needs_none(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        [spare] = await until_some_wait(world)
        await registry.pause(ID, pause())
        await registry.resume(ID, resume(2, memory=False))
        assert place(world, ID) is None
        assert waiting(world) == [spare]


async def test_one_that_ended_is_replaced_not_handed_out(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        [spare] = await until_some_wait(world)
        spare.end(Reason.VMM_CRASHED, "killed from outside")
        await registry.start(OTHER, start())
        assert place(world, OTHER) != spare.place.id
        assert registry.get(OTHER).state is State.RUNNING
        await until_some_wait(world)
        assert world.traces(spare.place.id) == []


async def test_nobody_gets_one_that_somebody_has(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        await until_some_wait(world)
        await asyncio.gather(*(registry.start(id, start()) for id in (OTHER, THIRD, FOURTH)))
        assert len({registry.reach(id).slot.index for id in KNOWN}) == 4
        assert [place(world, id) for id in (OTHER, THIRD, FOURTH)].count(None) == 2


async def test_a_load_that_fails_leaves_nothing_and_loses_nothing(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        [spare] = await until_some_wait(world)
        await registry.pause(ID, pause())
        world.start_error = VmmError("no such state")
        assert await refused(registry.resume(ID, resume(2))) == "resume_failed"
        assert registry.get(ID).state is State.PAUSED
        assert not spare.alive
        assert world.traces(spare.place.id) == []
        world.start_error = None
        await registry.resume(ID, resume(2))
        assert registry.get(ID).state is State.RUNNING


async def test_rules_that_cannot_be_set_leave_nothing(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        [spare] = await until_some_wait(world)
        world.slots.egress_error = Unavailable("no rules")
        with pytest.raises(Unavailable):
            await registry.start(OTHER, start())
        assert not spare.alive
        assert world.traces(OTHER) == world.traces(spare.place.id) == []


async def test_an_agent_that_stops_takes_them_along_and_leaves_the_sandboxes(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        [spare] = await until_some_wait(world)
        await registry.start(OTHER, start())
        [last] = await until_some_wait(world)
    assert spare.alive
    assert not last.alive
    assert world.traces(last.place.id) == []
    async with world.agent() as registry:
        assert registry.get(OTHER).state is State.RUNNING
        assert spare.alive
        await registry.kill(OTHER, 1)
        assert not spare.alive


async def test_what_an_agent_that_died_left_is_removed(world: World) -> None:
    async with world.agent(spares=1) as registry:
        await registry.start(ID, start())
        [spare] = await until_some_wait(world)
        spare.detached = True  # as a kill of the agent would have it
    world.paths.place(spare.place.id).mkdir(exist_ok=True)
    async with world.agent():
        assert not spare.alive
        assert world.traces(spare.place.id) == []


async def test_they_come_back_after_one_that_could_not_be_started(world: World) -> None:
    async with world.agent(spares=1) as registry:
        world.slots.limit = 1
        await registry.start(ID, start())
        world.slots.limit = 8
        world.clock.advance(RETRY)
        await until_some_wait(world)


async def test_none_when_none_are_wanted(world: World) -> None:
    async with world.agent() as registry:
        for id in (ID, OTHER):
            await registry.start(id, start())
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await until_some_wait(world)
        assert waiting(world) == []
