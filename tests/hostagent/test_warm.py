"""VMs that are restored before anybody asks for them."""

import asyncio

import pytest
from hostagent.fake_vmm import FakeVm
from hostagent.world import ID, OTHER, THIRD, World, fork, pause, resume, start

from wrenn_server.hostagent.sandbox.warm import REMEMBERED, RETRY, WINDOW, wanted
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire

KNOWN = {ID, OTHER, THIRD}


def standing_by(world: World) -> list[FakeVm]:
    return [vm for vm in world.vms.values() if vm.stopped and vm.place.id not in KNOWN and not vm.envd.token]


async def until_one_stands_by(world: World, count: int = 1) -> list[FakeVm]:
    """There is nothing to wait on: nobody is told of a VM that is nobody's."""
    async with asyncio.timeout(10):
        while len(standing_by(world)) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return standing_by(world)


@pytest.mark.parametrize(
    ("creates", "limit", "count"),
    [
        ([], 2, 0),
        ([0.0], 2, 1),
        ([0.0, 0.0, 0.0], 2, 2),
        ([0.0, 0.0, 0.0], 5, 3),
        ([-WINDOW, -WINDOW], 5, 1),
        ([-REMEMBERED, 0.0], 5, 1),
        ([-REMEMBERED], 5, 0),
        ([0.0], 0, 0),
    ],
)
def test_as_many_as_are_expected(creates: list[float], limit: int, count: int) -> None:
    assert wanted(creates, 0.0, limit) == count


async def test_the_next_create_takes_the_one_that_waits(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        assert waiting.envd.inits[-1]["accessToken"] == ""
        assert waiting.envd.runs != []
        network = wire.Network(internet=False)
        report = await registry.start(OTHER, start(network=network))
        assert report.state is State.RUNNING
        assert (waiting.stopped, waiting.alive) == (False, True)
        told = waiting.envd.inits[-1]
        assert (told["accessToken"], told["hostname"]) == ("token1", OTHER)
        assert world.slots.networks[registry.reach(OTHER).slot.index] == network
        entry = world.entry(OTHER)
        assert entry is not None
        assert (entry.place, entry.vm) == (waiting.place.id, waiting.record())
        assert not (world.paths.sandboxes / waiting.place.id).exists()
        assert world.paths.overlay(OTHER).exists()


async def test_nobody_gets_one_that_somebody_has(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        await until_one_stands_by(world)
        await asyncio.gather(registry.start(OTHER, start()), registry.start(THIRD, start()))
        slots = {registry.reach(id).slot.index for id in KNOWN}
        assert len(slots) == 3


async def test_another_shape_gets_none(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        await registry.start(OTHER, start(memory_mb=256))
        assert waiting.stopped
        assert world.vm(OTHER).spec.memory_mb == 256


async def test_one_that_ended_is_replaced_not_handed_out(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        waiting.end(Reason.VMM_CRASHED, "killed from outside")
        await registry.start(OTHER, start())
        assert world.vm(OTHER).place.id == OTHER
        [other] = await until_one_stands_by(world)
        assert other is not waiting
        assert world.traces(waiting.place.id) == []


async def test_one_that_does_not_wake_costs_nobody_his_sandbox(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        waiting.envd.refuse = True
        report = await registry.start(OTHER, start())
        assert report.state is State.RUNNING
        assert world.vm(OTHER).envd.token == "token1"
        assert not waiting.alive
        assert world.traces(waiting.place.id) == []


async def test_an_agent_that_stops_takes_them_along_and_leaves_the_sandboxes(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        await registry.start(OTHER, start())
        [last] = await until_one_stands_by(world)
    assert waiting.alive
    assert not last.alive
    assert world.traces(last.place.id) == []
    async with world.agent() as registry:
        assert {report.id: report.state for report in registry.reports()} == dict.fromkeys(
            (ID, OTHER), State.RUNNING
        )
        assert waiting.alive
        await registry.kill(OTHER, 1)
        assert not waiting.alive
    assert world.traces(OTHER) == world.traces(waiting.place.id) == []


async def test_what_an_agent_that_died_left_standing_by_is_removed(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        name = waiting.place.id
        (world.paths.run / name / "left").write_bytes(b"")
        waiting.detached = True  # as a kill of the agent would have it
        traces = world.traces(name)
    world.paths.place(name).mkdir(exist_ok=True)
    world.paths.sandbox(name).mkdir(exist_ok=True)
    world.vms[waiting.pid] = waiting
    assert traces != []
    async with world.agent():
        assert not waiting.alive
        assert world.traces(name) == []


async def test_it_pauses_resumes_and_forks_as_any_other(world: World) -> None:
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        await registry.start(OTHER, start())
        report = await registry.fork(OTHER, fork(1, THIRD))
        assert [result.error_code for result in report.results] == [None]
        assert world.vm(THIRD).place.id == THIRD
        await registry.pause(OTHER, pause())
        entry = world.entry(OTHER)
        assert entry is not None
        assert entry.place is None
        await registry.resume(OTHER, resume(2))
        assert world.vm(OTHER).envd.token == "token2"
    assert world.traces(waiting.place.id) == []


async def test_they_go_when_nobody_asks_any_more(world: World) -> None:
    async with world.agent(warm=2) as registry:
        await registry.start(ID, start())
        [waiting] = await until_one_stands_by(world)
        world.clock.advance(REMEMBERED)
        await until_one_stands_by(world, 0)
        assert not waiting.alive


async def test_memory_that_is_short_is_for_sandboxes(world: World) -> None:
    world.free_memory = 2 * 128
    async with world.agent(warm=1) as registry:
        await registry.start(ID, start())
        await registry.start(OTHER, start())
        await asyncio.sleep(0)
        assert standing_by(world) == []
        world.free_memory += 1
        await registry.start(THIRD, start())
        await until_one_stands_by(world)


async def test_what_fails_is_tried_again_later(world: World) -> None:
    async with world.agent(warm=1) as registry:
        world.slots.limit = 1
        await registry.start(ID, start())
        world.slots.limit = 8
        world.clock.advance(RETRY)
        await until_one_stands_by(world)
