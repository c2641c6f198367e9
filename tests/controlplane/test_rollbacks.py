"""Back to an earlier snapshot of the same sandbox, on simulated hosts."""

import asyncio
from typing import Any

import pytest
from controlplane.test_elsewhere import another, lose

from support.simulated import Gate, World, eventually
from wrenn_server.controlplane.reconcile import drains
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.hostagent.simulated_held import SimulatedStore
from wrenn_server.model.errors import Internal, Unavailable
from wrenn_server.wire import agent as wire


async def saved(world: World, sandbox_id: str, **wanted: Any) -> str:
    answer = await world.api.post(f"/v1/sandboxes/{sandbox_id}/snapshots", wanted)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def rollback(world: World, sandbox_id: str, snapshot: str) -> Any:
    return await world.api.post(f"/v1/sandboxes/{sandbox_id}/rollback", {"snapshot": snapshot})


def resumes(agent: SimulatedAgent) -> list[wire.Resume]:
    return [body for body in agent.host.bodies if isinstance(body, wire.Resume)]


async def test_a_running_one_goes_back_and_keeps_its_time(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox(timeout_sec=500)
    snapshot = await saved(world, made["id"], name="before")
    answer = await rollback(world, made["id"], snapshot)
    assert answer.status_code == 200, answer.text
    now = answer.json()
    assert (now["id"], now["status"], now["generation"]) == (made["id"], "running", 2)
    assert now["envd_access_token"]
    assert "reason" not in now
    [resume] = resumes(host)
    assert (resume.snapshot, resume.generation) == (snapshot, 2)
    assert 490 < (resume.ttl_sec or 0) <= 500
    assert (await rollback(world, made["id"], "before")).json()["generation"] == 3
    # It may be deleted: nothing lives on it.
    assert (await world.api.delete(f"/v1/snapshots/{snapshot}")).status_code == 204
    assert (await rollback(world, made["id"], snapshot)).status_code == 404


async def test_a_paused_one_resumes_from_it(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox()
    snapshot = await saved(world, made["id"])
    assert (await world.api.post(f"/v1/sandboxes/{made['id']}/pause")).status_code == 200
    assert (await rollback(world, made["id"], snapshot)).json()["status"] == "running"
    assert [resume.snapshot for resume in resumes(host)] == [snapshot]


async def test_what_makes_no_sense_is_refused_before_anything_is_done(
    world: World, host: SimulatedAgent
) -> None:
    one, two = [(await world.new_sandbox())["id"] for _ in range(2)]
    snapshot = await saved(world, two)
    calls = len(host.host.calls)
    for reference, status, code in (
        (snapshot, 400, "snapshot_of_another"),
        ("minimal", 400, "snapshot_of_another"),
        ("snap_" + "a" * 20, 404, "template_not_found"),
    ):
        answer = await rollback(world, one, reference)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await rollback(world, "sb" + "a" * 20, snapshot)).status_code == 404
    assert len(host.host.calls) == calls
    await world.api.delete(f"/v1/sandboxes/{two}")
    assert (await rollback(world, two, snapshot)).status_code == 409


@pytest.mark.parametrize("error", [Internal("damaged", code="snapshot_damaged"), Unavailable("no slot")])
async def test_when_it_fails_the_sandbox_runs_on_as_it_was(
    world: World, host: SimulatedAgent, error: Exception
) -> None:
    made = await world.new_sandbox()
    snapshot = await saved(world, made["id"])

    async def fail(command: Command, sandbox_id: str) -> None:
        if command is Command.RESUME and resumes(host)[-1].snapshot is not None:
            raise error

    host.host.before = fail
    answer = await rollback(world, made["id"], snapshot)
    assert answer.status_code in (500, 503), answer.text
    assert await world.state(made["id"]) == "running"
    assert [resume.snapshot for resume in resumes(host)] == [snapshot, None]


async def test_what_is_on_another_host_and_in_no_store_is_out_of_reach(world: World) -> None:
    objects = SimulatedStore()
    async with another(world, objects), another(world, objects):
        made = await world.new_sandbox()
        snapshot = await saved(world, made["id"])
        await world.cp.db.execute(
            "UPDATE snapshots s SET host_id = (SELECT h.id FROM hosts h, sandboxes b WHERE b.id = s.sandbox_id"
            " AND h.id <> b.host_id LIMIT 1)"
        )
        answer = await rollback(world, made["id"], snapshot)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "snapshot_elsewhere")
        assert await world.state(made["id"]) == "running"


async def test_after_a_move_it_goes_back_by_way_of_the_store(world: World) -> None:
    objects = SimulatedStore()
    async with another(world, objects) as first:
        made = await world.new_sandbox()
        snapshot = await saved(world, made["id"])
        await first.host.store_snapshot(snapshot)
        await world.api.post(f"/v1/sandboxes/{made['id']}/pause")
        await first.host.store(made["id"], wire.Store(generation=1))
        await first.beat()
        async with another(world, objects) as second:
            await lose(world, first)
            answer = await rollback(world, made["id"], snapshot)
            assert answer.status_code == 200, answer.text
            assert made["id"] in second.host.held
            assert resumes(second)[-1].snapshot == snapshot


async def test_a_kill_in_the_middle_wins(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox()
    snapshot = await saved(world, made["id"])
    host.host.before = (gate := Gate(Command.RESUME))
    going = asyncio.create_task(rollback(world, made["id"], snapshot))
    await gate.reached.wait()
    assert await world.state(made["id"]) == "resuming"
    killing = await world.api.delete(f"/v1/sandboxes/{made['id']}")
    assert killing.status_code == 204
    gate.open.set()
    assert (await going).status_code in (409, 500)
    assert await world.state(made["id"]) == "killed"


async def test_what_somebody_died_over_runs_on(
    world: World, host: SimulatedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await world.new_sandbox()
    await world.api.post(f"/v1/sandboxes/{made['id']}/pause")
    await world.cp.db.execute("UPDATE sandboxes SET reason = 'rollback'")
    monkeypatch.setattr(drains, "INTERRUPTED_SEC", 0.0)
    await eventually(lambda: runs(world, made["id"]))
    assert [resume.snapshot for resume in resumes(host)] == [None]


async def runs(world: World, sandbox_id: str) -> bool:
    return await world.state(sandbox_id) == "running"
