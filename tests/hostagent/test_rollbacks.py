"""Back to a snapshot that was taken of the same sandbox earlier, and what a guest says that it renewed."""

from hostagent.world import ID, OTHER, World, pause, refused, start

from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.model.ids import new_snapshot_id
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent as wire

SNAPSHOT = new_snapshot_id()


async def saved(agent: Registry) -> None:
    """A running sandbox and a snapshot of it."""
    await agent.start(ID, start(access_token="then"))
    await agent.snapshot(ID, wire.Snapshot(generation=1, id=SNAPSHOT))


def back(generation: int = 2, snapshot: str | None = SNAPSHOT) -> wire.Resume:
    return wire.Resume(generation=generation, access_token="now", snapshot=snapshot)


async def test_disk_and_memory_are_those_of_then(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(ID, start(access_token="then"))
        world.vm().spec.overlay.write_bytes(b"then")
        await agent.snapshot(ID, wire.Snapshot(generation=1, id=SNAPSHOT))
        world.vm().spec.overlay.write_bytes(b"later")
        await agent.pause(ID, pause())
        report = await agent.resume(ID, back())
        assert (report.state, report.generation) == (State.RUNNING, 2)
        assert world.vm().spec.overlay.read_bytes() == b"then"
        # FakeEnvd lets only those in who prove the token of the saved memory.
        assert world.vm().envd.token == "now"
        assert await agent.resume(ID, back()) == report, "the same again is answered with what is"
    async with world.agent() as agent:
        assert agent.get(ID).state is State.RUNNING
        await agent.pause(ID, pause(generation=2))
        await agent.resume(ID, back(3, None))
        assert world.vm().spec.overlay.read_bytes() == b"then"


async def test_a_failure_leaves_all_that_it_had_done(world: World) -> None:
    async with world.agent() as agent:
        await saved(agent)
        world.vm().spec.overlay.write_bytes(b"later")
        await agent.pause(ID, pause())
        world.start_error = VmmError("no")
        assert await refused(agent.resume(ID, back())) == "resume_failed"
        assert (agent.get(ID).state, agent.get(ID).saved_generation) == (State.PAUSED, 1)
        world.start_error = None
        await agent.resume(ID, back(3, None))
        assert world.vm().spec.overlay.read_bytes() == b"later"


async def test_only_its_own_snapshots_will_do(world: World) -> None:
    async with world.agent() as agent:
        await saved(agent)
        await agent.start(OTHER, start())
        await agent.pause(OTHER, pause())
        assert await refused(agent.resume(OTHER, back())) == "snapshot_of_another"
        assert await refused(agent.resume(OTHER, back(snapshot=new_snapshot_id()))) == "snapshot_not_found"
        assert await refused(agent.resume(OTHER, back(snapshot="snap_../../x"))) == "invalid_request"
        assert agent.get(OTHER).state is State.PAUSED


async def test_what_a_guest_says_that_it_renewed_is_told_in_known_words(world: World) -> None:
    async with world.agent() as agent:
        assert (await agent.start(ID, start())).renewed == ["random", "boot_id"]
        target = wire.ForkTarget(id=OTHER, generation=1, access_token="fork")
        [result] = (await agent.fork(ID, wire.Fork(generation=1, targets=[target]))).results
        assert result.report is not None
        assert result.report.renewed == ["random", "boot_id"]
    async with world.agent() as agent:
        assert agent.get(ID).renewed == ["random", "boot_id"], "after a restart, too"
