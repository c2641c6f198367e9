"""Pauses that keep the disk alone, and the boots that follow them."""

import asyncio

import pytest
from hostagent.world import ID, World, pause, refused, resume, start

from wrenn_server.hostagent.guest import client
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire


async def test_the_disk_is_written_out_and_kept_and_the_resume_boots(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(envs={"A": "1"}))
        vm, boots = world.vm(), world.driver.boots
        vm.spec.overlay.write_bytes(b"written by the guest")
        report = await agent.pause(ID, pause(memory=False))
        assert (report.state, report.saved_memory, report.message) == (State.PAUSED, False, None)
        assert vm.envd.syncs == 1
        assert not (world.paths.snapshot(ID, 1) / "memory").exists()
    async with world.agent() as agent:
        assert agent.get(ID).saved_memory is False
        resumed = await agent.resume(ID, resume(2))
        assert (resumed.state, resumed.saved_memory, world.driver.boots) == (State.RUNNING, None, boots + 1)
        assert world.vm().spec.overlay.read_bytes() == b"written by the guest"
        [init] = world.vm().envd.inits
        assert (init["accessToken"], init["envVars"], init["hostname"]) == ("token2", {"A": "1"}, ID)
        assert (await agent.pause(ID, pause(2))).saved_memory is True


async def test_memory_that_was_saved_can_be_left_behind(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        assert (await agent.pause(ID, pause())).saved_memory is True
        boots, vms = world.driver.boots, len(world.envds)
        resumed = await agent.resume(ID, resume(2, memory=False))
        assert (resumed.state, resumed.message, world.driver.boots) == (State.RUNNING, None, boots + 1)
        # What was written and is in that memory alone goes to the disk first.
        assert [envd.syncs for envd in world.envds[vms:]] == [1, 0]
        assert world.vm().envd.token == "token2"


async def test_memory_of_a_guest_that_hangs_can_be_left_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FLUSH_TIMEOUT", 0.1)
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.pause(ID, pause())
        world.envd_hangs = True
        resumed = await agent.resume(ID, resume(2, memory=False))
        assert resumed.state is State.RUNNING
        assert resumed.message is not None
        assert "may be lost" in resumed.message


async def test_a_guest_that_hangs_is_paused_all_the_same_and_that_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FLUSH_TIMEOUT", 0.1)
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().envd.hangs = True
        report = await agent.pause(ID, pause(memory=False))
        assert report.state is State.PAUSED
        assert report.message is not None
        assert "may be lost" in report.message
        assert (await agent.resume(ID, resume(2))).message is None


async def test_a_kill_does_not_wait_for_a_guest_that_hangs(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().envd.hangs = True
        pausing = asyncio.create_task(agent.pause(ID, pause(memory=False)))
        await world.until(lambda: agent.get(ID).state is State.PAUSING)
        async with asyncio.timeout(5):
            await agent.kill(ID, 1)
        assert await refused(pausing) == "killed"
        assert world.traces() == []


async def test_a_boot_that_fails_leaves_it_paused(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.pause(ID, pause(memory=False))
        world.start_error = VmmError("no")
        assert await refused(agent.resume(ID, resume(2))) == "resume_failed"
        report = agent.get(ID)
        assert (report.state, report.generation, report.saved_memory) == (State.PAUSED, 1, False)
        world.start_error = None
        assert (await agent.resume(ID, resume(2))).state is State.RUNNING


async def test_what_the_end_of_its_time_keeps_is_what_was_asked_for_last(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(ttl_sec=60.0, on_timeout="pause", pause_memory=False))
        world.clock.advance(60)
        await world.until(lambda: agent.get(ID).state is State.PAUSED)
        assert agent.get(ID).saved_memory is False
        await agent.resume(ID, resume(2))
        wanted = wire.Timeout(generation=2, ttl_sec=0, on_timeout="pause", pause_memory=False)
        await agent.timeout(ID, wanted)
        await world.until(lambda: agent.get(ID).state is State.PAUSED)
        assert agent.get(ID).saved_memory is False


async def test_no_time_at_all_ends_it_at_once(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        report = await agent.timeout(ID, wire.Timeout(generation=1, ttl_sec=0))
        assert (report.state, report.expires_at) == (State.RUNNING, world.clock.now())
        await world.until(lambda: agent.get(ID).state is State.KILLED)
        assert agent.get(ID).reason is Reason.TIMEOUT
