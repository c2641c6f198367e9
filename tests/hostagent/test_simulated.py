"""The simulated host keeps the rules of the real one where tests of the control plane rely on them."""

from hostagent.world import ID, OTHER, THIRD, pause, refused, resume, start

from wrenn_server.hostagent.simulated_host import SimulatedHost
from wrenn_server.model.ids import new_snapshot_id
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire


async def test_a_snapshot_is_something_to_start_from() -> None:
    host, snapshot = SimulatedHost(), new_snapshot_id()
    await host.start(ID, start(envs={"A": "1", "B": "1"}))
    made = await host.snapshot(ID, wire.Snapshot(generation=1, id=snapshot))
    await host.kill(ID, 1)
    assert await host.snapshot(ID, wire.Snapshot(generation=1, id=snapshot)) == made
    assert (await host.start(OTHER, start(snapshot=snapshot, envs={"B": "2"}))).state is State.RUNNING
    assert host.held[OTHER].envs == {"A": "1", "B": "2"}
    assert await refused(host.start(THIRD, start(snapshot=snapshot, memory_mb=256))) == "shape_mismatch"
    await host.delete_snapshot(snapshot)
    await host.delete_snapshot(snapshot)
    assert (
        await refused(host.snapshot(OTHER, wire.Snapshot(generation=1, id=snapshot))) == "snapshot_not_found"
    )
    assert await refused(host.start(THIRD, start(snapshot=snapshot))) == "snapshot_not_found"
    assert await refused(host.snapshot(OTHER, wire.Snapshot(generation=1, id="../x"))) == "invalid_request"


async def test_what_a_pause_keeps_is_told() -> None:
    host = SimulatedHost()
    await host.start(ID, start())
    assert (await host.pause(ID, pause(memory=False))).saved_memory is False
    await host.resume(ID, resume(2, on_timeout="pause", pause_memory=False))
    assert host.get(ID).saved_memory is None
    await host.timeout(ID, wire.Timeout(generation=2, ttl_sec=0, on_timeout="pause"))
    report = host.get(ID)
    assert (report.state, report.reason, report.saved_memory) == (State.PAUSED, Reason.TIMEOUT, True)


async def test_what_a_sandbox_may_reach_is_kept_and_inherited() -> None:
    host = SimulatedHost()
    closed, open_ = wire.Network(internet=False), wire.Network(deny_out=["10.0.0.0/8"])
    await host.start(ID, start(network=closed))
    targets = [wire.ForkTarget(id=OTHER, generation=1, access_token="t")]
    await host.fork(ID, wire.Fork(generation=1, targets=targets))
    await host.rewire(ID, wire.Rewire(generation=1, network=open_))
    assert (host.held[ID].network, host.held[OTHER].network) == (open_, closed)
    assert [type(body).__name__ for body in host.bodies] == ["Start", "Fork", "Rewire"]
    assert [sample.sandbox_id for sample in host.samples(at=5.0)] == [ID, OTHER]
