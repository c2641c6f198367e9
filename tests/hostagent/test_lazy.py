"""Sandboxes that run while their disk is still on its way from the object store."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
from hostagent.world import ID, World, fork, pause, refused, resume, start

from support.held import Held
from wrenn_server.hostagent.sandbox import saving
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.storage import chunks, lazy, sealed, store
from wrenn_server.hostagent.storage.paths import OVERLAY
from wrenn_server.hostagent.storage.store import Stored, of_sandbox
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.model.errors import WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire

DISK = os.urandom(3 << 20) + bytes(3 << 20) + os.urandom(2 << 20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LAZY_FROM", 1 << 20)
    monkeypatch.setattr(lazy, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(lazy, "LONGEST_RETRY", 0.05)
    monkeypatch.setattr(saving, "ARRIVAL", 0.2)


class Away:
    """A paused sandbox that is in the store alone, and the objects of its disk."""

    def __init__(self, objects: Path) -> None:
        self._objects = objects

    @property
    def disk(self) -> list[Path]:
        manifest = self._objects / of_sandbox(ID, 1)
        content = msgspec.json.decode(manifest.read_bytes(), type=Stored).files[OVERLAY]
        return [self._objects / chunks.path_of(name) for name in content.chunks.values()]

    def held(self) -> Held:
        return Held(self.disk)


@pytest.fixture
async def away(tmp_path: Path) -> Away:
    first = World(tmp_path / "first", tmp_path / "objects")
    async with first.agent() as agent:
        await agent.start(ID, start())
        first.paths.overlay(ID).write_bytes(DISK)
        await agent.pause(ID, pause(1))
        await agent.store(ID, wire.Store(generation=1))
    return Away(tmp_path / "objects")


@pytest.fixture
async def world(tmp_path: Path, away: Away) -> AsyncGenerator[World]:
    """Another host."""
    world = World(tmp_path / "second", tmp_path / "objects")
    yield world
    for vm in list(world.vms.values()):
        vm.end(Reason.USER, "")
    await asyncio.sleep(0)


async def is_whole(world: World, agent: Registry, generation: int) -> None:
    """And is saved so."""
    report = await agent.pause(ID, pause(generation))
    assert report.state is State.PAUSED
    directory = world.paths.snapshot(ID, generation)
    assert (directory / OVERLAY).read_bytes() == DISK
    assert sealed.verify(directory).lazy is None


async def test_it_runs_before_its_disk_is_there(world: World, away: Away) -> None:
    held = away.held()
    async with world.agent() as agent:
        answer = await agent.resume(ID, resume(2, stored=1))
        assert answer.state is State.RUNNING
        assert world.vm().lazy
        # What would save half a disk waits, and is refused in the end; the sandbox runs on.
        assert await refused(agent.pause(ID, pause(2))) == "disk_arriving"
        assert await refused(agent.fork(ID, fork(2, "sb" + "f" * 20))) == "disk_arriving"
        assert agent.get(ID).state is State.RUNNING
        assert not world.vm().stopped
        saving.ARRIVAL = 10.0
        pausing = asyncio.create_task(agent.pause(ID, pause(2)))
        await asyncio.sleep(0.1)
        assert not pausing.done()
        held.let_go()
        await pausing
        await agent.resume(ID, resume(3))
        assert not world.vm().lazy
        await is_whole(world, agent, 3)


async def test_it_becomes_a_file_by_itself(world: World) -> None:
    settling, go_on = world.hold("settle")
    async with world.agent() as agent:
        await agent.resume(ID, resume(2, stored=1))
        async with asyncio.timeout(5):
            await settling.wait()
        assert world.paths.overlay(ID).read_bytes() == DISK
        go_on.set()
        await is_whole(world, agent, 2)
        assert not world.paths.lazy(ID).exists()


async def test_the_next_agent_goes_on(world: World, away: Away) -> None:
    held = away.held()
    async with world.agent() as agent:
        await agent.resume(ID, resume(2, stored=1))
    [vm] = world.vms.values()
    assert vm.lazy
    async with world.agent() as agent:
        assert agent.get(ID).state is State.RUNNING
        held.let_go()
        saving.ARRIVAL = 10.0
        await is_whole(world, agent, 2)
    assert not vm.lazy


async def test_a_start_that_fails_leaves_it_paused(world: World) -> None:
    world.start_error = VmmError("no")
    async with world.agent() as agent:
        assert await refused(agent.resume(ID, resume(2, stored=1))) == "resume_failed"
        assert agent.get(ID).state is State.PAUSED
        assert not world.paths.lazy(ID).exists()
        assert not world.paths.overlay(ID).exists()
    world.start_error = None
    async with world.agent() as agent:  # or the one after it
        assert (await agent.resume(ID, resume(2))).state is State.RUNNING
        await is_whole(world, agent, 2)


async def test_what_boots_has_its_disk_first(world: World) -> None:
    world.start_error = VmmError("no")
    async with world.agent() as agent:
        assert await refused(agent.resume(ID, resume(2, stored=1))) == "resume_failed"
        world.start_error = None
        await agent.resume(ID, resume(2, memory=False))
        assert not world.vm().lazy
        await is_whole(world, agent, 2)


async def test_a_driver_that_cannot_has_it_first(world: World) -> None:
    world.driver.lazy = False
    async with world.agent() as agent:
        await agent.resume(ID, resume(2, stored=1))
        assert not world.vm().lazy
        assert world.paths.overlay(ID).read_bytes() == DISK


async def test_a_drain_brings_all_of_it(world: World) -> None:
    async with world.agent() as agent:
        await agent.fetch(ID, wire.Fetch(generation=1))
        assert (world.paths.snapshot(ID, 1) / OVERLAY).read_bytes() == DISK


async def test_a_kill_does_not_wait(world: World, away: Away) -> None:
    away.held()
    async with world.agent() as agent:
        await agent.resume(ID, resume(2, stored=1))
        saving.ARRIVAL = 60.0
        pausing = asyncio.create_task(refused(agent.pause(ID, pause(2))))
        await asyncio.sleep(0.1)
        await agent.kill(ID, 2)
        assert await pausing == "killed"
        assert world.traces() == []


async def test_what_the_store_has_lost_is_told(world: World, away: Away) -> None:
    away.disk[1].write_bytes(b"not what was stored")
    async with world.agent() as agent:
        await agent.resume(ID, resume(2, stored=1))
        with pytest.raises(WrennError, match="chunk") as refusal:
            await agent.pause(ID, pause(2))
        assert refusal.value.code == "snapshot_damaged"
        assert agent.get(ID).state is State.RUNNING
        await agent.kill(ID, 2)
        assert world.traces() == []


async def test_a_vmm_that_does_not_let_go_is_asked_again(world: World) -> None:
    world.settle_error = VmmError("not now")
    async with world.agent() as agent:
        await agent.resume(ID, resume(2, stored=1))
        assert await refused(agent.pause(ID, pause(2))) == "pause_failed"
        assert world.vm().lazy
        world.settle_error = None
        await is_whole(world, agent, 2)


async def test_one_that_ends_leaves_nothing(world: World, away: Away) -> None:
    away.held()
    async with world.agent() as agent:
        await agent.resume(ID, resume(2, stored=1))
        world.vm().end(Reason.VMM_CRASHED, "it died")
        await world.until(lambda: agent.get(ID).state is State.FAILED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while len(world.traces()) > 2:  # noqa: ASYNC110 - after the report
                    await asyncio.sleep(0.01)
        assert [Path(trace).name for trace in world.traces()] == [ID, "state.json"]
