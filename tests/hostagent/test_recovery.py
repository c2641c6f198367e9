"""What a new agent makes of what an old one left, for each state in which it may have died."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
from hostagent.world import ID, OTHER, World, pause, refused, resume, start

from wrenn_server.hostagent.sandbox.journal import Journal
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.model.sandbox import Reason, State


@contextlib.asynccontextmanager
async def died(world: World, state: State, *, vm: bool = True) -> AsyncGenerator[None]:
    """Leaves what an agent leaves that died in `state`, after having started the sandbox."""
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().spec.overlay.write_bytes(b"data")
    entry = world.entry()
    assert entry is not None
    await Journal(world.paths.sandboxes).write(msgspec.structs.replace(entry, state=state))
    if not vm:
        world.vm().end(Reason.VMM_CRASHED, "")
    yield


def half_saved(world: World, *, overlay_moved: bool, sealed: bool) -> None:
    """What a pause has done of its work."""
    directory = world.paths.snapshots / ID / ("1" if sealed else "1.new")
    (directory / "memory").mkdir(parents=True)
    (directory / "memory/vmm.json").write_text("{}")
    if overlay_moved:
        world.paths.overlay(ID).rename(directory / "overlay.ext4")
    if sealed:
        (directory / "manifest.json").write_text("{}")


async def test_running_vms_outlive_the_agent(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(ttl_sec=60.0))
        vm = world.vm()
    assert vm.alive
    async with world.agent() as agent:
        assert agent.reach(ID).slot.index == 0
        assert world.vm() is vm
        assert agent.get(ID).expires_at == world.clock.now() + 60
        assert len(vm.envd.inits) == 1
        await agent.pause(ID, pause(1))
        assert not vm.alive


async def test_an_agent_that_is_cancelled_leaves_its_vms_too(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        reached, _ = world.hold("snapshot")
        pausing = asyncio.create_task(agent.pause(ID, pause(1)))
        await reached.wait()
        for task in asyncio.all_tasks():
            if task.get_name() == f"own {ID}":
                task.cancel()
        assert await refused(pausing) == "host_unavailable"
        del world.gates["snapshot"]
    assert world.vm().alive
    async with world.agent() as agent:
        assert (await agent.pause(ID, pause(1))).state is State.PAUSED


async def test_time_that_ended_while_the_agent_was_away_ends_at_once(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(ttl_sec=60.0))
    world.clock.advance(100)
    async with world.agent() as agent:
        await world.until(lambda: agent.get(ID).state is State.KILLED)
        assert world.vms == {}


async def test_a_vm_that_ended_meanwhile_has_failed(world: World) -> None:
    async with died(world, State.RUNNING, vm=False), world.agent() as agent:
        assert agent.get(ID).state is State.FAILED
        assert agent.get(ID).reason is Reason.VMM_CRASHED
        assert world.slots.used == set()


async def test_a_half_done_start_has_failed(world: World) -> None:
    async with died(world, State.STARTING), world.agent() as agent:
        assert agent.get(ID).state is State.FAILED
        assert agent.get(ID).reason is Reason.START_FAILED
        assert (world.vms, world.slots.used) == ({}, set())


@pytest.mark.parametrize("overlay_moved", [False, True])
async def test_a_half_done_pause_is_undone_and_its_vm_runs_on(world: World, overlay_moved: bool) -> None:
    async with died(world, State.PAUSING):
        await world.vm().pause()
        half_saved(world, overlay_moved=overlay_moved, sealed=False)
        async with world.agent() as agent:
            assert agent.get(ID).state is State.RUNNING
            assert not world.vm().stopped
            assert world.paths.overlay(ID).read_bytes() == b"data"
            assert not (world.paths.snapshots / ID / "1.new").exists()


async def test_a_pause_whose_snapshot_was_complete_is_finished(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        vm = world.vm()
        before = world.entry()
        await agent.pause(ID, pause(1))
    assert before is not None
    await Journal(world.paths.sandboxes).write(msgspec.structs.replace(before, state=State.PAUSING))
    world.vms[vm.pid] = vm  # the agent died before it ended the VM
    vm.ended = asyncio.get_running_loop().create_future()
    async with world.agent() as agent:
        assert agent.get(ID).state is State.PAUSED
        assert (world.vms, world.slots.used) == ({}, set())
        assert (await agent.resume(ID, resume(2))).state is State.RUNNING


async def test_a_half_done_resume_is_paused_again(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.vm().spec.overlay.write_bytes(b"data")
        await agent.pause(ID, pause(1))
    entry = world.entry()
    assert entry is not None
    await Journal(world.paths.sandboxes).write(msgspec.structs.replace(entry, state=State.RESUMING, slot=0))
    world.paths.overlay(ID).write_bytes(b"half a copy")
    async with world.agent() as agent:
        assert agent.get(ID).state is State.PAUSED
        await agent.resume(ID, resume(2))
        assert world.vm().spec.overlay.read_bytes() == b"data"


async def test_a_half_done_kill_is_finished(world: World) -> None:
    async with died(world, State.KILLING), world.agent() as agent:
        assert (world.vms, world.traces(), agent.reports()) == ({}, [], [])


async def test_a_paused_sandbox_whose_snapshot_is_not_there_is_not_forgotten(
    world: World, tmp_path: Path
) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.pause(ID, pause(1))
    elsewhere = tmp_path / "elsewhere"
    (world.paths.snapshots / ID).rename(elsewhere)
    async with world.agent() as agent:
        assert await refused(agent.resume(ID, resume(2))) == "snapshot_missing"
        assert agent.get(ID).state is State.PAUSED
        elsewhere.rename(world.paths.snapshots / ID)
        assert (await agent.resume(ID, resume(2))).state is State.RUNNING


async def test_a_damaged_journal_is_left_alone_and_the_others_live(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.start(OTHER, start())
    file = world.paths.sandboxes / ID / "state.json"
    file.write_bytes(b"{")
    async with world.agent() as agent:
        assert [report.id for report in agent.reports()] == [OTHER]
        assert file.read_bytes() == b"{"
        assert len(world.vms) == 2


async def test_what_belongs_to_nobody_is_removed(world: World) -> None:
    world.paths.overlay(ID).parent.mkdir()
    world.paths.overlay(ID).write_bytes(b"")
    (world.paths.snapshots / "fork-abc").mkdir()
    foreign = world.paths.sandboxes / "notes.txt"
    foreign.write_text("mine")
    async with world.agent():
        assert world.traces() == []
        assert not (world.paths.snapshots / "fork-abc").exists()
        assert foreign.read_text() == "mine"


async def test_templates_of_replaced_images_go_and_disks_under_paused_sandboxes_stay(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await agent.start(OTHER, start(memory_mb=256))
        await agent.pause(ID, pause(1))
        await agent.kill(OTHER, 1)
    new = world.paths.images / "new"
    new.write_bytes(b"another")
    new.rename(world.paths.images / "minimal.ext4")
    async with world.agent() as agent:
        assert [path.name for path in world.paths.templates.iterdir()] == [".blank"]
        await agent.resume(ID, resume(2))
        assert world.vm().spec.root_image.read_bytes() == b"x"
        await agent.kill(ID, 2)
    async with world.agent():
        assert list(world.paths.pinned.iterdir()) == []


async def test_a_sandbox_survives_a_mistake_of_its_owner(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Registry, *_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("wrenn_server.hostagent.sandbox.registry.SUCCESSION", 0.0)
    async with world.agent() as agent:
        await agent.start(ID, start())
        vm = world.vm()
        with monkeypatch.context() as patch:
            patch.setattr("wrenn_server.hostagent.sandbox.owner.Owner._prolong", broken)
            from wrenn_server.wire.agent import Timeout

            assert await refused(agent.timeout(ID, Timeout(generation=1, ttl_sec=5))) == "host_unavailable"
        assert (await agent.pause(ID, pause(1))).state is State.PAUSED
        assert not vm.alive
