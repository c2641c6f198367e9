"""The life of sandboxes on one host, with everything real but the VMM and the network."""

import asyncio

import pytest
from hostagent.world import ID, OTHER, THIRD, World, fork, pause, refused, resume, start

from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire


async def test_a_start_answers_when_the_guest_knows_who_it_is(world: World) -> None:
    async with world.agent() as agent:
        report = await agent.start(ID, start(envs={"A": "1"}))
        assert (report.state, report.generation) == (State.RUNNING, 1)
        [init] = world.vm().envd.inits
        assert init["accessToken"] == "token1"
        assert init["envVars"] == {"A": "1"}
        assert (init["hostname"], init["lifecycleID"]) == (ID, f"{ID}:1")
        assert len(init["entropy"]) == 88
        entry = world.entry()
        assert entry is not None
        assert (entry.state, entry.vm) == (State.RUNNING, {"pid": world.vm().pid})


async def test_one_boot_serves_all_that_want_the_same_shape(world: World) -> None:
    async with world.agent() as agent:
        await asyncio.gather(*(agent.start(id, start()) for id in (ID, OTHER, THIRD)))
        assert world.driver.boots == 1
        assert (
            await agent.prepare("minimal", wire.Prepare(vcpus=1, memory_mb=128, disk_mb=512))
        ).boot_seconds == 0.0
        await agent.prepare("minimal", wire.Prepare(vcpus=1, memory_mb=256, disk_mb=512))
        assert world.driver.boots == 2


async def test_a_new_image_makes_a_new_template_and_keeps_the_old_disk(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.pause(ID, pause(1))
        new = world.paths.images / "new"
        new.write_bytes(b"another")
        new.rename(world.paths.images / "minimal.ext4")
        await agent.start(OTHER, start())
        assert world.driver.boots == 2
        assert world.vm(OTHER).spec.root_image.read_bytes() == b"another"
        await agent.resume(ID, resume(2))
        assert world.vm().spec.root_image.read_bytes() == b"x"


async def test_the_same_start_twice_gives_the_same_answer(world: World) -> None:
    async with world.agent() as agent:
        first, second = await asyncio.gather(agent.start(ID, start()), agent.start(ID, start()))
        assert first == second == await agent.start(ID, start())
        assert len(world.vms) == 1
        assert await refused(agent.start(ID, start(2))) == "invalid_state"


async def test_an_unknown_template_leaves_nothing(world: World) -> None:
    async with world.agent() as agent:
        assert await refused(agent.start(ID, start(template="../etc/passwd"))) == "template_not_found"
        assert await refused(agent.start(ID, start(memory_mb=1))) == "invalid_request"
        assert (world.traces(), agent.reports()) == ([], [])


async def test_without_a_slot_the_start_can_be_tried_again(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        world.slots.limit = 1
        assert await refused(agent.start(ID, start())) == "no_slots"
        assert world.traces() == []
        await agent.kill(OTHER, 1)
        assert (await agent.start(ID, start())).state is State.RUNNING


async def test_a_failed_start_tells_why_and_holds_nothing(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        world.envd_refuses = True
        assert await refused(agent.start(ID, start())) == "start_failed"
        report = agent.get(ID)
        assert (report.state, report.reason, report.console) == (
            State.FAILED,
            Reason.START_FAILED,
            "last words",
        )
        assert await refused(agent.start(ID, start())) == "start_failed"
        assert world.traces() == [f"sandboxes/{ID}", f"sandboxes/{ID}/state.json"]
        assert len(world.slots.used) == 1
        await agent.kill(ID, 1)
        assert world.traces() == []


async def test_a_template_that_does_not_boot_is_tried_twice_and_then_told(world: World) -> None:
    async with world.agent() as agent:
        world.start_error = VmmError("no")
        assert await refused(agent.start(ID, start())) == "template_failed"
        assert world.driver.boots == 2
        world.start_error = None
        assert (await agent.start(ID, start())).state is State.RUNNING


async def test_pause_and_resume_carry_memory_and_disk(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().spec.overlay.write_bytes(b"written by the guest")
        report = await agent.pause(ID, pause(1))
        assert (report.state, report.expires_at) == (State.PAUSED, None)
        assert (world.vms, world.slots.used) == ({}, set())
        assert await agent.pause(ID, pause(1)) == report
        resumed = await agent.resume(ID, resume(2))
        assert (resumed.state, resumed.generation) == (State.RUNNING, 2)
        assert world.vm().spec.overlay.read_bytes() == b"written by the guest"
        assert world.vm().envd.token == "token2"
        assert await refused(agent.pause(ID, pause(1))) == "stale_generation"
        assert (await agent.resume(ID, resume(2))).state is State.RUNNING


@pytest.mark.parametrize("error", [VmmError("refused"), OSError(28, "No space left on device")])
async def test_a_failed_pause_leaves_it_running(world: World, error: Exception) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().spec.overlay.write_bytes(b"data")
        world.snapshot_error = error
        assert await refused(agent.pause(ID, pause(1))) == "pause_failed"
        assert agent.get(ID).state is State.RUNNING
        assert not world.vm().stopped
        assert world.vm().spec.overlay.read_bytes() == b"data"
        entry = world.entry()
        assert entry is not None
        assert entry.state is State.RUNNING
        world.snapshot_error = None
        assert (await agent.pause(ID, pause(1))).state is State.PAUSED


@pytest.mark.parametrize("what", ["vmm", "guest"])
async def test_a_failed_resume_leaves_it_paused(world: World, what: str) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().spec.overlay.write_bytes(b"data")
        await agent.pause(ID, pause(1))
        world.start_error = VmmError("refused") if what == "vmm" else None
        world.envd_refuses = what == "guest"
        assert await refused(agent.resume(ID, resume(2))) == "resume_failed"
        assert (agent.get(ID).state, agent.get(ID).generation) == (State.PAUSED, 1)
        assert (world.vms, world.slots.used) == ({}, set())
        world.start_error, world.envd_refuses = None, False
        await agent.resume(ID, resume(2))
        assert world.vm().spec.overlay.read_bytes() == b"data"


async def test_a_consumed_snapshot_is_never_used_again(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.pause(ID, pause(1))
        await agent.resume(ID, resume(2))
        world.vm().end(Reason.VMM_CRASHED, "SIGSEGV")
        await world.until(lambda: agent.get(ID).state is State.FAILED)
        assert await refused(agent.resume(ID, resume(3))) == "invalid_state"


@pytest.mark.parametrize("state", ["running", "paused", "failed", "starting", "pausing", "resuming"])
async def test_a_kill_works_in_every_state_and_leaves_nothing(world: World, state: str) -> None:
    async with world.agent() as agent:
        going: asyncio.Task[wire.SandboxReport] | None = None
        await agent.start(OTHER, start())
        if state == "starting":
            reached, _ = world.hold("vm")
            going = asyncio.create_task(agent.start(ID, start()))
            await reached.wait()
        else:
            await agent.start(ID, start())
        if state in {"paused", "resuming"}:
            await agent.pause(ID, pause(1))
        if state == "failed":
            world.vm().end(Reason.OOM_KILLED, "")
            await world.until(lambda: agent.get(ID).state is State.FAILED)
        if state == "pausing":
            reached, _ = world.hold("snapshot")
            going = asyncio.create_task(agent.pause(ID, pause(1)))
            await reached.wait()
        if state == "resuming":
            reached, _ = world.hold("vm")
            going = asyncio.create_task(agent.resume(ID, resume(2)))
            await reached.wait()
        assert agent.get(ID).state == state
        await agent.kill(ID, 1)
        assert world.traces() == []
        assert len(world.vms) == len(world.slots.used) == 1
        if going is not None:
            assert await refused(going) == "killed"
        await agent.kill(ID, 1)
        assert await refused(agent.pause(ID, pause(1))) == "sandbox_not_found"


async def test_a_start_that_comes_after_its_kill_is_too_late(world: World) -> None:
    async with world.agent() as agent:
        await agent.kill(ID, 1)
        assert await refused(agent.start(ID, start(1))) == "killed"
        assert (await agent.start(ID, start(2))).state is State.RUNNING


async def test_a_stale_kill_interrupts_nothing(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(5))
        reached, go = world.hold("snapshot")
        pausing = asyncio.create_task(agent.pause(ID, pause(5)))
        await reached.wait()
        kill = asyncio.create_task(agent.kill(ID, 4))
        go.set()
        assert (await pausing).state is State.PAUSED
        assert await refused(kill) == "stale_generation"


async def test_commands_at_once_are_carried_out_one_after_the_other(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        answers = await asyncio.gather(*(agent.pause(ID, pause(1)) for _ in range(5)))
        assert {report.state for report in answers} == {State.PAUSED}
        answers = await asyncio.gather(*(agent.resume(ID, resume(2)) for _ in range(5)))
        assert {report.generation for report in answers} == {2}
        assert world.history[ID].count(State.PAUSING) == world.history[ID].count(State.RESUMING) == 1


async def test_a_caller_that_goes_away_does_not_stop_its_command(world: World) -> None:
    async with world.agent() as agent:
        await agent.prepare("minimal", wire.Prepare(vcpus=1, memory_mb=128, disk_mb=512))
        reached, go = world.hold("vm")
        call = asyncio.create_task(agent.start(ID, start()))
        await reached.wait()
        call.cancel()
        go.set()
        assert (await agent.start(ID, start())).state is State.RUNNING
        assert len(world.vms) == 1


async def test_a_vm_that_ends_is_told_with_its_reason_and_console(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().end(Reason.OOM_KILLED, "the memory limit of its control group was reached")
        await world.until(lambda: agent.get(ID).state is State.FAILED)
        report = agent.get(ID)
        assert (report.reason, report.console) == (Reason.OOM_KILLED, "last words")
        assert world.slots.used == set()


# Time to live.


async def test_at_the_end_of_its_time_it_is_killed_and_that_is_told_until_acknowledged(world: World) -> None:
    async with world.agent() as agent:
        report = await agent.start(ID, start(ttl_sec=60.0))
        assert report.expires_at == world.clock.now() + 60
        world.clock.advance(59)
        assert agent.get(ID).state is State.RUNNING
        world.clock.advance(1)
        await world.until(lambda: agent.get(ID).state is State.KILLED)
        assert agent.get(ID).reason is Reason.TIMEOUT
        assert world.traces() == [f"sandboxes/{ID}", f"sandboxes/{ID}/state.json"]
    async with world.agent() as agent:
        assert (agent.get(ID).state, agent.get(ID).reason) == (State.KILLED, Reason.TIMEOUT)


async def test_at_the_end_of_its_time_it_is_paused_when_that_is_wanted(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(ttl_sec=60.0, on_timeout="pause"))
        world.clock.advance(60)
        await world.until(lambda: agent.get(ID).state is State.PAUSED)
        assert (await agent.resume(ID, resume(2))).expires_at is None


async def test_a_pause_that_fails_at_the_end_of_time_is_tried_again(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(ttl_sec=60.0, on_timeout="pause"))
        world.snapshot_error = OSError(28, "No space left on device")
        world.clock.advance(60)
        await world.until(lambda: world.history[ID][-2:] == [State.PAUSING, State.RUNNING])
        world.snapshot_error = None
        world.clock.advance(30)
        await world.until(lambda: agent.get(ID).state is State.PAUSED)


async def test_a_new_timeout_counts_from_now_and_the_old_one_is_forgotten(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(ttl_sec=60.0))
        world.clock.advance(30)
        report = await agent.timeout(ID, wire.Timeout(generation=1, ttl_sec=100.0, on_timeout="pause"))
        assert report.expires_at == world.clock.now() + 100
        world.clock.advance(60)
        assert agent.get(ID).state is State.RUNNING
        report = await agent.timeout(ID, wire.Timeout(generation=1, ttl_sec=None))
        assert report.expires_at is None
        world.clock.advance(10_000)
        assert agent.get(ID).state is State.RUNNING


# Forks.


async def test_forks_get_the_memory_and_the_disk_and_an_identity_of_their_own(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().spec.overlay.write_bytes(b"shared past")
        report = await agent.fork(ID, fork(1, OTHER, THIRD))
        assert [result.report and result.report.state for result in report.results] == [State.RUNNING] * 2
        for id in (OTHER, THIRD):
            assert world.vm(id).spec.overlay.read_bytes() == b"shared past"
            assert world.vm(id).envd.token == f"token of {id}"
            assert world.vm(id).envd.inits[0]["lifecycleID"] == f"{id}:1"
        assert (world.vm().stopped, agent.get(ID).generation) == (False, 1)
        assert list(world.paths.snapshots.glob("fork-*")) == []
        again = await agent.fork(ID, fork(1, OTHER, THIRD))
        assert again == report


async def test_a_fork_for_which_there_is_no_room_is_told_beside_the_others(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.slots.limit = 2
        report = await agent.fork(ID, fork(1, OTHER, THIRD))
        assert sorted(result.error_code or "" for result in report.results) == ["", "no_slots"]
        assert agent.get(ID).state is State.RUNNING


async def test_a_checkpoint_that_fails_leaves_the_source_running(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.snapshot_error = VmmError("refused")
        assert await refused(agent.fork(ID, fork(1, OTHER))) == "fork_failed"
        assert not world.vm().stopped
        assert list(world.paths.snapshots.glob("fork-*")) == []
        assert world.traces(OTHER) == []


async def test_forks_are_started_although_their_source_is_killed_meanwhile(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        reached, go = world.hold("vm")
        forking = asyncio.create_task(agent.fork(ID, fork(1, OTHER)))
        await reached.wait()
        await agent.kill(ID, 1)
        go.set()
        [result] = (await forking).results
        assert result.report is not None
        assert result.report.state is State.RUNNING


@pytest.mark.parametrize("ids", [(), (OTHER, OTHER), ("../x",), ("sb1",)])
async def test_targets_of_the_wrong_shape_are_refused(world: World, ids: tuple[str, ...]) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        assert await refused(agent.fork(ID, fork(1, *ids))) == "invalid_request"


# The host.


async def test_drain_pauses_all_that_run(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.start(OTHER, start())
        assert {report.state for report in await agent.drain("pause")} == {State.PAUSED}
        await agent.resume(ID, resume(2))
        await agent.drain("kill")
        assert [report.id for report in agent.reports()] == [OTHER]


async def test_software_emulation_is_for_one_team(world: World) -> None:
    async with world.agent(one_team=True) as agent:
        await agent.start(ID, start())
        stranger = start(team_id="team_" + "b" * 20)
        assert await refused(agent.start(OTHER, stranger)) == "emulated_tenants"
        await agent.kill(ID, 1)
        assert (await agent.start(OTHER, stranger)).state is State.RUNNING
