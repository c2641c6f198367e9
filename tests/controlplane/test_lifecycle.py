"""How sandboxes end and what pauses keep, with a simulated host."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.simulated import Gate, World, eventually
from wrenn_server.controlplane.services import sandboxes, snapshots, timeouts
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Conflict
from wrenn_server.model.ids import parse_sandbox_id
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent


def bodies(host: SimulatedAgent, kind: type[Any]) -> list[Any]:
    return [body for body in host.host.bodies if isinstance(body, kind)]


async def test_lifecycle_is_told_to_the_host_and_in_answers(world: World, host: SimulatedAgent) -> None:
    options = {"on_timeout": "pause", "pause_memory": False, "timeout_sec": 60}
    made = await world.new_sandbox(**options)
    assert {key: made[key] for key in options} == options
    assert made["auto_resume"] is False
    assert "saved_memory" not in made
    start = bodies(host, agent.Start)[0]
    assert (start.on_timeout, start.pause_memory, start.ttl_sec) == ("pause", False, 60.0)
    fork = (await world.api.post(f"/v1/sandboxes/{made['id']}/fork")).json()[0]["sandbox"]
    assert {key: fork[key] for key in options} == options
    assert bodies(host, agent.Fork)[0].targets[0].pause_memory is False


@pytest.mark.parametrize(
    "options",
    [
        {"pause_memory": False},
        {"pause_memory": False, "on_timeout": "kill"},
        {"pause_memory": False, "on_timeout": "pause", "auto_resume": True},
    ],
)
async def test_a_lifecycle_that_makes_no_sense(
    world: World, host: SimulatedAgent, options: dict[str, Any]
) -> None:
    answer = await world.api.post("/v1/sandboxes", options)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert host.host.held == {}


@pytest.mark.parametrize("memory", [True, False])
async def test_a_pause_tells_what_it_kept(world: World, host: SimulatedAgent, memory: bool) -> None:
    path = f"/v1/sandboxes/{(await world.new_sandbox())['id']}"
    paused = (await world.api.post(f"{path}/pause", {"memory": memory})).json()
    assert (paused["status"], paused["saved_memory"]) == ("paused", memory)
    assert bodies(host, agent.Pause)[0].memory is memory
    resumed = (await world.api.post(f"{path}/resume", {"memory": False})).json()
    assert resumed["status"] == "running"
    assert "saved_memory" not in resumed
    assert bodies(host, agent.Resume)[0].memory is False


@pytest.mark.parametrize("memory", [True, False])
async def test_a_pause_at_its_timeout_tells_what_it_kept(
    world: World, host: SimulatedAgent, memory: bool
) -> None:
    sandbox = await world.new_sandbox(on_timeout="pause", pause_memory=memory)
    host.host.expires(sandbox["id"])
    await host.beat()
    paused = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert (paused["status"], paused["reason"], paused["saved_memory"]) == ("paused", "timeout", memory)


async def test_a_pause_at_its_timeout_is_seen_from_its_begin(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox(on_timeout="pause")
    held = host.host.held[sandbox["id"]]
    held.report.state = State.PAUSING
    await host.beat()
    assert await world.state(sandbox["id"]) == "pausing"
    held.report.state = State.RUNNING  # the disk was full
    await host.beat()
    assert await world.state(sandbox["id"]) == "running"
    held.report.state = State.PAUSING
    await host.beat()
    host.host.expires(sandbox["id"])
    await host.beat()
    assert await world.state(sandbox["id"]) == "paused"


async def test_an_end_at_its_timeout_is_seen_from_its_begin(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    host.host.held[sandbox["id"]].report.state = State.KILLING
    await host.beat()
    assert await world.state(sandbox["id"]) == "killing"
    host.host.expires(sandbox["id"])
    await host.beat()
    ended = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert (ended["status"], ended["reason"]) == ("killed", "timeout")
    assert host.host.held == {}


async def test_many_ends_in_one_heartbeat_do_not_wait_for_each_other(
    world: World, host: SimulatedAgent
) -> None:
    first, *rest = [(await world.new_sandbox())["id"] for _ in range(10)]
    gate = Gate(Command.KILL)

    async def hold_first(command: Command, sandbox_id: str) -> None:
        if sandbox_id == first:
            await gate(command, sandbox_id)

    host.host.before = hold_first
    for sandbox_id in (first, *rest):
        host.host.expires(sandbox_id)
    beat = asyncio.create_task(host.beat())
    await gate.reached.wait()

    async def ended() -> bool:
        return list(host.host.held) == [first]

    await eventually(ended)
    gate.open.set()
    await beat
    assert host.host.held == {}


async def test_the_end_is_seen_by_api_and_edge_as_soon_as_it_is_told(
    world: World, host: SimulatedAgent
) -> None:
    sandbox = await world.new_sandbox()
    sandbox_id = parse_sandbox_id(sandbox["id"])
    assert sandbox_id is not None
    assert (await world.cp.routes.locate(sandbox_id)).state is State.RUNNING
    gone: list[str] = []
    world.cp.routes.on_gone.append(gone.append)
    host.host.expires(sandbox["id"])
    await host.beat()
    # No waiting: whoever looks after the heartbeat was answered finds the end.
    assert (await world.cp.routes.locate(sandbox_id)).state is State.KILLED
    assert gone[:1] == [sandbox["id"]]
    ended = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert (ended["status"], ended["reason"]) == ("killed", "timeout")


async def test_expire_kills(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox(timeout_sec=600)
    await timeouts.expire(world.cp, world.admin.team_id, sandbox["id"])
    ended = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert (ended["status"], ended["reason"]) == ("killed", "timeout")
    assert host.host.held == {}


async def test_expire_pauses(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox(on_timeout="pause", pause_memory=False)
    await timeouts.expire(world.cp, world.admin.team_id, sandbox["id"])
    ended = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert (ended["status"], ended["reason"], ended["saved_memory"]) == ("paused", "timeout", False)


async def test_expire_never_kills_what_is_paused(world: World, host: SimulatedAgent) -> None:
    """Between the look and the kill somebody may pause it; its data must stay."""
    sandbox = await world.new_sandbox()
    host.host.before = gate = Gate(Command.PAUSE)
    pause = asyncio.create_task(world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause"))
    await gate.reached.wait()
    with pytest.raises(Conflict):
        await timeouts.expire(world.cp, world.admin.team_id, sandbox["id"])
    gate.open.set()
    assert (await pause).status_code == 200
    with pytest.raises(Conflict):
        await timeouts.expire(world.cp, world.admin.team_id, sandbox["id"])
    assert await world.state(sandbox["id"]) == "paused"


async def test_extend_only_lengthens(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox(timeout_sec=300)
    team_id = world.admin.team_id

    async def ends_in(timeout_sec: int) -> float:
        row = await timeouts.extend(world.cp, team_id, sandbox["id"], timeout_sec)
        assert row.expires_at is not None
        assert row.expires_at.timestamp() == pytest.approx(
            host.host.held[sandbox["id"]].report.expires_at, abs=0.001
        )
        return (row.expires_at - datetime.now(UTC)) / timedelta(seconds=1)

    assert 290 < await ends_in(10) <= 300
    assert 590 < await ends_in(600) <= 600
    assert 590 < await ends_in(60) <= 600
    await timeouts.set_timeout(world.cp, team_id, sandbox["id"], 0)
    never = await timeouts.extend(world.cp, team_id, sandbox["id"], 60)
    assert (never.expires_at, never.timeout_sec) == (None, 0)


async def test_extends_at_once_end_with_the_longest(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox(timeout_sec=100)
    seconds = [200, 1000, 400, 150, 800, 300, 50, 600]
    await asyncio.gather(
        *(timeouts.extend(world.cp, world.admin.team_id, sandbox["id"], each) for each in seconds)
    )
    row = await sandboxes.get(world.cp, world.admin.team_id, sandbox["id"])
    expires = host.host.held[sandbox["id"]].report.expires_at
    assert expires is not None
    assert 990 < expires - time.time() <= 1000
    assert row.expires_at is not None
    assert row.expires_at.timestamp() == pytest.approx(expires, abs=0.001)
    assert row.timeout_sec == 1000


async def test_timeouts_at_once_leave_row_and_host_with_the_same_end(
    world: World, host: SimulatedAgent
) -> None:
    sandbox = await world.new_sandbox()
    for _ in range(5):
        await asyncio.gather(
            *(
                timeouts.set_timeout(world.cp, world.admin.team_id, sandbox["id"], seconds)
                for seconds in (100, 900, 300, 700)
            )
        )
        row = await sandboxes.get(world.cp, world.admin.team_id, sandbox["id"])
        expires = host.host.held[sandbox["id"]].report.expires_at
        assert row.expires_at is not None
        assert row.expires_at.timestamp() == pytest.approx(expires, abs=0.001)


async def test_a_timeout_for_what_its_host_has_ended_already(world: World, host: SimulatedAgent) -> None:
    """The heartbeat that tells it has not arrived yet."""
    killed, paused = await world.new_sandbox(), await world.new_sandbox(on_timeout="pause")
    for sandbox in (killed, paused):
        host.host.expires(sandbox["id"])
    answer = await world.api.post(f"/v1/sandboxes/{killed['id']}/timeout", {"timeout_sec": 60})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_state")
    assert await world.state(killed["id"]) == "killed"
    answer = await world.api.post(f"/v1/sandboxes/{paused['id']}/timeout", {"timeout_sec": 60})
    assert (answer.status_code, answer.json()["status"]) == (200, "paused")
    assert answer.json()["timeout_sec"] == 60


@pytest.mark.parametrize("verb", ["pause", "fork", "snapshot"])
@pytest.mark.parametrize("on_timeout", ["kill", "pause"])
async def test_commands_for_what_its_host_has_ended_already(
    world: World, host: SimulatedAgent, verb: str, on_timeout: str
) -> None:
    sandbox = await world.new_sandbox(on_timeout=on_timeout)
    host.host.expires(sandbox["id"])
    after = "paused" if on_timeout == "pause" else "killed"
    if verb == "snapshot":
        with pytest.raises(Conflict):
            await snapshots.create(world.cp, world.admin.team_id, sandbox["id"])
    else:
        answer = await world.api.post(f"/v1/sandboxes/{sandbox['id']}/{verb}")
        if (verb, after) == ("pause", "paused"):
            assert (answer.status_code, answer.json()["status"]) == (200, "paused")
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_state")
    assert await world.state(sandbox["id"]) == after
