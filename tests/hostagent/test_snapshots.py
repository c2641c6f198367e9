"""Named snapshots: made of running sandboxes, started from, deleted; whatever becomes of source and agent meanwhile."""

import asyncio

import pytest
from hostagent.world import ID, OTHER, THIRD, World, pause, refused, start

from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.model.ids import new_snapshot_id
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent as wire

SNAPSHOT = new_snapshot_id()


async def save(agent: Registry, id: str = SNAPSHOT, **changes: bool) -> wire.SnapshotReport:
    return await agent.snapshot(ID, wire.Snapshot(generation=1, id=id, **changes))


async def test_sandboxes_start_from_it_with_its_memory_and_names_of_their_own(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(envs={"A": "1", "B": "1"}))
        world.vm().spec.overlay.write_bytes(b"shared past")
        report = await save(agent)
        assert (report.id, report.memory, report.message) == (SNAPSHOT, True, None)
        assert report.size_bytes > 0
        assert (agent.get(ID).state, world.vm().stopped) == (State.RUNNING, False)
        await agent.kill(ID, 1)
    boots = world.driver.boots
    async with world.agent() as agent:
        for id in (OTHER, THIRD):
            await agent.start(id, start(snapshot=SNAPSHOT, access_token=f"of {id}", envs={"B": "2"}))
            assert world.vm(id).spec.overlay.read_bytes() == b"shared past"
            # FakeEnvd lets only those in who prove the token of the saved memory.
            [init] = world.vm(id).envd.inits
            assert (init["accessToken"], init["envVars"]) == (f"of {id}", {"A": "1", "B": "2"})
        assert world.driver.boots == boots


async def test_a_snapshot_of_the_disk_alone_boots(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(envs={"A": "1"}))
        world.vm().spec.overlay.write_bytes(b"shared past")
        assert (await save(agent, memory=False)).memory is False
        assert world.vm().envd.syncs == 1
        boots = world.driver.boots
        await agent.start(OTHER, start(snapshot=SNAPSHOT, memory_mb=256))
        assert world.driver.boots == boots + 1
        assert world.vm(OTHER).spec.overlay.read_bytes() == b"shared past"
        assert world.vm(OTHER).envd.inits[0]["envVars"] == {"A": "1"}


async def test_the_same_snapshot_twice_is_one(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        first, second = await asyncio.gather(save(agent), save(agent))
        await agent.pause(ID, pause())
        await agent.kill(ID, 1)
        assert first == second == await save(agent)
        await agent.start(OTHER, start())
        body = wire.Snapshot(generation=1, id=SNAPSHOT)
        assert await refused(agent.snapshot(OTHER, body)) == "snapshot_exists"


async def test_only_a_running_sandbox_can_be_saved(world: World) -> None:
    async with world.agent() as agent:
        assert await refused(save(agent)) == "sandbox_not_found"
        await agent.start(ID, start())
        assert await refused(save(agent, id="snap_../../x")) == "invalid_request"
        await agent.pause(ID, pause())
        assert await refused(save(agent)) == "invalid_state"
        assert list(world.paths.named.iterdir()) == []


@pytest.mark.parametrize(
    ("snapshot", "changes", "code"),
    [
        (SNAPSHOT, {"memory_mb": 256}, "shape_mismatch"),
        (SNAPSHOT, {"disk_mb": 1024}, "shape_mismatch"),
        (new_snapshot_id(), {}, "snapshot_not_found"),
        ("../" + SNAPSHOT, {}, "invalid_request"),
    ],
)
async def test_what_cannot_be_started_is_refused(
    world: World, snapshot: str, changes: dict[str, int], code: str
) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await save(agent)
        assert await refused(agent.start(OTHER, start(snapshot=snapshot, **changes))) == code
        assert world.traces(OTHER) == []


async def test_deleted_ones_are_gone_and_those_who_started_from_them_are_not(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await save(agent)
        await agent.start(OTHER, start(snapshot=SNAPSHOT))
        await agent.delete_snapshot(SNAPSHOT)
        await agent.delete_snapshot(SNAPSHOT)
        assert list(world.paths.named.iterdir()) == []
        assert await refused(agent.start(THIRD, start(snapshot=SNAPSHOT))) == "snapshot_not_found"
        assert (await agent.start(OTHER, start(snapshot=SNAPSHOT))).state is State.RUNNING
        assert (await agent.pause(OTHER, pause())).state is State.PAUSED


async def test_a_deletion_waits_for_those_who_are_just_starting(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await save(agent)
        reached, go = world.hold("vm")
        starting = asyncio.create_task(agent.start(OTHER, start(snapshot=SNAPSHOT)))
        await reached.wait()
        deleting = asyncio.create_task(agent.delete_snapshot(SNAPSHOT))
        await asyncio.sleep(0)
        assert not deleting.done()
        go.set()
        assert (await starting).state is State.RUNNING
        await deleting
        assert list(world.paths.named.iterdir()) == []


async def test_a_deletion_wins_over_a_making_that_it_overtakes(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        reached, go = world.hold("snapshot")
        saving = asyncio.create_task(save(agent))
        await reached.wait()
        deleting = asyncio.create_task(agent.delete_snapshot(SNAPSHOT))
        await asyncio.sleep(0)
        go.set()
        assert await refused(saving) == "snapshot_not_found"
        await deleting
        assert await refused(save(agent)) == "snapshot_not_found"
        assert list(world.paths.named.iterdir()) == []
        assert (agent.get(ID).state, world.vm().stopped) == (State.RUNNING, False)


@pytest.mark.parametrize("error", [VmmError("refused"), OSError(28, "No space left on device")])
async def test_one_that_fails_leaves_the_source_running_and_nothing_else(
    world: World, error: Exception
) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        world.snapshot_error = error
        assert await refused(save(agent)) == "snapshot_failed"
        assert (agent.get(ID).state, world.vm().stopped) == (State.RUNNING, False)
        assert list(world.paths.named.iterdir()) == []
        world.snapshot_error = None
        assert (await save(agent)).memory


async def test_a_kill_of_the_source_breaks_it_off(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        reached, _ = world.hold("snapshot")
        saving = asyncio.create_task(save(agent))
        await reached.wait()
        await agent.kill(ID, 1)
        assert await refused(saving) == "killed"
        assert list(world.paths.named.iterdir()) == []


async def test_half_of_one_is_swept_and_its_source_runs_on(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await world.vm().pause()
        half = world.paths.named / f"{SNAPSHOT}.new/memory"
        half.mkdir(parents=True)
        (half / "vmm.json").write_text("{}")
        await save(agent, other := new_snapshot_id())
        await world.vm().pause()
    async with world.agent() as agent:
        assert [path.name for path in world.paths.named.iterdir()] == [other]
        assert (agent.get(ID).state, world.vm().stopped) == (State.RUNNING, False)


async def test_the_image_under_it_stays_as_long_as_it_does(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await save(agent)
        await agent.kill(ID, 1)
    new = world.paths.images / "new"
    new.write_bytes(b"another")
    new.rename(world.paths.images / "minimal.ext4")
    async with world.agent() as agent:
        await agent.start(OTHER, start(snapshot=SNAPSHOT))
        assert world.vm(OTHER).spec.root_image.read_bytes() == b"x"
        await agent.kill(OTHER, 1)
        await agent.delete_snapshot(SNAPSHOT)
    async with world.agent():
        assert list(world.paths.pinned.iterdir()) == []


async def test_a_damaged_one_is_told_and_costs_the_others_nothing(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await save(agent)
    (world.paths.named / SNAPSHOT / "manifest.json").write_text("{")
    async with world.agent() as agent:
        assert agent.get(ID).state is State.RUNNING
        assert await refused(agent.start(OTHER, start(snapshot=SNAPSHOT))) == "snapshot_damaged"
        await agent.delete_snapshot(SNAPSHOT)
        assert list(world.paths.named.iterdir()) == []


async def test_only_root_reads_what_a_start_needs(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start())
        await save(agent)
    assert world.paths.named.stat().st_mode & 0o077 == 0
    assert (world.paths.named / SNAPSHOT / "source.json").stat().st_mode & 0o077 == 0
