"""Connecting to sandboxes and waking them, against everything else that may happen to them at the same time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta

import pytest

from support.simulated import Gate, World, control_plane, eventually
from wrenn_server.controlplane import app
from wrenn_server.controlplane.config import Config
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import guest, pauses, routes, sandboxes, timeouts, wakes
from wrenn_server.controlplane.services.routes import Location
from wrenn_server.db import pool
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Conflict, Internal, NotFound, TimedOut, Unavailable, WrennError
from wrenn_server.model.ids import SandboxId, new_sandbox_id
from wrenn_server.model.sandbox import State


@pytest.fixture
async def other(world: World, database_url: str) -> AsyncIterator[ControlPlane]:
    """A second control plane on the same database."""
    async with pool.connect(database_url) as db, app.composed(Config(), db) as cp:
        yield cp


def resumes(host: SimulatedAgent) -> int:
    return sum(command is Command.RESUME for command, _, _ in host.host.calls)


async def new(world: World, state: str = "running", **wanted: object) -> SandboxId:
    made = await world.new_sandbox(**wanted)
    if state == "paused":
        await pauses.pause(world.cp, world.admin.team_id, made["id"])
    return SandboxId(made["id"])


async def connect(world: World, sandbox_id: str, timeout_sec: int = 60) -> tuple[State, bool]:
    row, resumed = await wakes.connect(world.cp, world.admin.team_id, sandbox_id, timeout_sec=timeout_sec)
    return row.state, resumed


async def wake(cp: ControlPlane, sandbox_id: SandboxId) -> Location:
    return await wakes.wake(cp, sandbox_id, await cp.routes.locate(sandbox_id))


async def waits(work: "Awaitable[object]", host: SimulatedAgent) -> "asyncio.Task[object]":
    """The work, which is not over although nothing else happens."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0.2)
    assert not task.done()
    return task


# Connect


async def test_connect_to_a_running_one_extends(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world, timeout_sec=300)
    row, resumed = await wakes.connect(world.cp, world.admin.team_id, sandbox_id, timeout_sec=10)
    assert (row.state, resumed) == (State.RUNNING, False)
    assert row.expires_at is not None
    assert row.expires_at - datetime.now(UTC) > timedelta(seconds=250)


async def test_connect_to_a_paused_one_resumes(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world, "paused", timeout_sec=300)
    row, resumed = await wakes.connect(
        world.cp, world.admin.team_id, sandbox_id, timeout_sec=10, memory=False
    )
    assert (row.state, resumed, row.timeout_sec) == (State.RUNNING, True, 10)
    assert host.host.bodies[-1].memory is False  # pyright: ignore[reportAttributeAccessIssue] - a Resume


async def test_connect_while_it_pauses_waits_and_resumes(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world)
    host.host.before = gate = Gate(Command.PAUSE)
    pause = asyncio.create_task(pauses.pause(world.cp, world.admin.team_id, sandbox_id))
    await gate.reached.wait()
    connecting = await waits(connect(world, sandbox_id), host)
    gate.open.set()
    await pause
    assert await connecting == (State.RUNNING, True)


async def test_connect_while_a_pause_fails_finds_it_running(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world)
    gate = Gate(Command.PAUSE)

    async def fail(command: Command, name: str) -> None:
        await gate(command, name)
        if command is Command.PAUSE:
            raise Internal("no space left", code="pause_failed")

    host.host.before = fail
    pause = asyncio.create_task(pauses.pause(world.cp, world.admin.team_id, sandbox_id))
    await gate.reached.wait()
    connecting = await waits(connect(world, sandbox_id), host)
    gate.open.set()
    with pytest.raises(Internal):
        await pause
    assert await connecting == (State.RUNNING, False)


async def test_connect_while_it_starts_or_resumes_waits(world: World, host: SimulatedAgent) -> None:
    host.host.before = gate = Gate(Command.START)
    create = asyncio.create_task(world.api.post("/v1/sandboxes", {}))
    await gate.reached.wait()
    sandbox_id = (await world.api.get("/v1/sandboxes")).json()[0]["id"]
    connecting = await waits(connect(world, sandbox_id), host)
    gate.open.set()
    assert (await create).status_code == 201
    assert await connecting == (State.RUNNING, False)
    await pauses.pause(world.cp, world.admin.team_id, sandbox_id)
    host.host.before = gate = Gate(Command.RESUME)
    resume = asyncio.create_task(pauses.resume(world.cp, world.admin.team_id, sandbox_id, None))
    await gate.reached.wait()
    connecting = await waits(connect(world, sandbox_id), host)
    gate.open.set()
    await resume
    assert await connecting == (State.RUNNING, False)
    assert resumes(host) == 1


async def test_connect_to_what_is_being_killed_has_ended_or_never_was(
    world: World, host: SimulatedAgent
) -> None:
    sandbox_id = await new(world)
    host.host.before = gate = Gate(Command.KILL)
    kill = asyncio.create_task(sandboxes.kill(world.cp, world.admin.team_id, sandbox_id))
    await gate.reached.wait()
    with pytest.raises(Conflict):
        await connect(world, sandbox_id)
    gate.open.set()
    await kill
    for gone in (sandbox_id, new_sandbox_id(), "nonsense"):
        with pytest.raises(NotFound):
            await connect(world, gone)


async def test_connect_to_what_its_host_has_ended_or_paused_already(
    world: World, host: SimulatedAgent
) -> None:
    """Its time ended a moment ago, and the heartbeat that tells it has not arrived."""
    killed, paused = await new(world), await new(world, on_timeout="pause")
    host.host.expires(killed)
    host.host.expires(paused)
    with pytest.raises(NotFound):
        await connect(world, killed)
    assert await connect(world, paused) == (State.RUNNING, True)


async def test_connect_while_its_host_pauses_it(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world, on_timeout="pause")
    host.host.held[sandbox_id].report.state = State.PAUSING
    connecting = await waits(connect(world, sandbox_id), host)
    host.host.expires(sandbox_id)
    await host.beat()
    assert await connecting == (State.RUNNING, True)


async def test_connect_when_its_host_is_away(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world)
    await world.cp.db.execute("UPDATE sandboxes SET state = 'lost'")
    with pytest.raises(Unavailable):
        await connect(world, sandbox_id)


async def test_waiting_has_a_bound(
    world: World, host: SimulatedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox_id = await new(world)
    await world.cp.db.execute("UPDATE sandboxes SET state = 'resuming'")
    monkeypatch.setattr(wakes, "PATIENCE_SEC", 0.1)
    with pytest.raises(TimedOut):
        await connect(world, sandbox_id)


async def test_the_other_control_plane_is_heard(
    world: World, host: SimulatedAgent, other: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By NOTIFY: looking now and then is only the net under it."""
    monkeypatch.setattr(routes, "_LOOK_SEC", 3600.0)
    sandbox_id = await new(world)
    host.host.before = gate = Gate(Command.PAUSE, Command.RESUME)
    pause = asyncio.create_task(pauses.pause(other, world.admin.team_id, sandbox_id))
    await gate.reached.wait()
    connecting = await waits(connect(world, sandbox_id), host)
    gate.open.set()
    await pause
    async with asyncio.timeout(20):
        assert await connecting == (State.RUNNING, True)


async def test_many_connects_and_one_resume(world: World, host: SimulatedAgent, other: ControlPlane) -> None:
    sandbox_id = await new(world, "paused")
    results = await asyncio.gather(
        *(
            wakes.connect(cp, world.admin.team_id, sandbox_id, timeout_sec=100 + n)
            for n in range(10)
            for cp in (world.cp, other)
        )
    )
    assert [row.state for row, _ in results] == [State.RUNNING] * 20
    assert sum(resumed for _, resumed in results) == 1
    assert resumes(host) == 1
    row = await sandboxes.get(world.cp, world.admin.team_id, sandbox_id)
    assert row.expires_at is not None
    assert row.expires_at - datetime.now(UTC) > timedelta(seconds=95)


# Wake


async def test_a_storm_of_requests_and_one_resume(
    world: World, host: SimulatedAgent, other: ControlPlane
) -> None:
    sandbox_id = await new(world, "paused", auto_resume=True, timeout_sec=5)
    locations = await asyncio.gather(*(wake(cp, sandbox_id) for _ in range(200) for cp in (world.cp, other)))
    assert {(location.state, location.generation) for location in locations} == {(State.RUNNING, 2)}
    assert resumes(host) == 1
    assert world.cp.waking == other.waking == {}


@pytest.mark.parametrize(("before", "after"), [(5, 300), (600, 600), (0, 0)])
async def test_how_long_it_lives_then(world: World, host: SimulatedAgent, before: int, after: int) -> None:
    sandbox_id = await new(world, "paused", auto_resume=True, timeout_sec=before)
    await wake(world.cp, sandbox_id)
    row = await sandboxes.get(world.cp, world.admin.team_id, sandbox_id)
    assert row.timeout_sec == after
    assert (row.expires_at is None) == (after == 0)


async def test_a_wake_during_the_pause_waits_for_its_end(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world, auto_resume=True)
    host.host.before = gate = Gate(Command.PAUSE)
    pause = asyncio.create_task(pauses.pause(world.cp, world.admin.team_id, sandbox_id))
    await gate.reached.wait()
    waking = await waits(wake(world.cp, sandbox_id), host)
    gate.open.set()
    await pause
    assert (await waking).state is State.RUNNING  # pyright: ignore[reportAttributeAccessIssue] - a Location
    assert resumes(host) == 1


async def test_a_failed_wake_is_told_to_all_and_the_next_tries_again(
    world: World, host: SimulatedAgent
) -> None:
    sandbox_id = await new(world, "paused", auto_resume=True)

    async def fail(command: Command, name: str) -> None:
        if command is Command.RESUME:
            raise Unavailable("no slot is free", code="no_slot")

    host.host.before = fail
    results = await asyncio.gather(*(wake(world.cp, sandbox_id) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5
    assert resumes(host) == 1
    host.host.before = Gate()
    assert (await wake(world.cp, sandbox_id)).state is State.RUNNING


async def test_who_leaves_does_not_stop_the_wake(world: World, host: SimulatedAgent) -> None:
    sandbox_id = await new(world, "paused", auto_resume=True)
    host.host.before = gate = Gate(Command.RESUME)
    one, two = (asyncio.create_task(wake(world.cp, sandbox_id)) for _ in range(2))
    await gate.reached.wait()
    one.cancel()
    await asyncio.wait([one])
    gate.open.set()
    assert (await two).state is State.RUNNING


async def test_a_control_plane_that_stops_leaves_no_waker_behind(database_url: str) -> None:
    async with control_plane(database_url) as world, world.host():
        sandbox_id = await new(world, auto_resume=True)
        await world.cp.db.execute("UPDATE sandboxes SET state = 'resuming'")
        waking = asyncio.create_task(wake(world.cp, sandbox_id))

        async def begun() -> bool:
            return bool(world.cp.waking)

        await eventually(begun)
        await wakes.close(world.cp)
        with pytest.raises(asyncio.CancelledError):
            await waking


async def test_calls_to_the_guest_wake_as_requests_to_its_ports_do(
    world: World, host: SimulatedAgent
) -> None:
    sandbox_id = await new(world, "paused", auto_resume=True)
    with pytest.raises(Conflict):
        await guest.running(world.cp, world.admin.team_id, sandbox_id)
    found = await guest.awake(world.cp, world.admin.team_id, sandbox_id)
    assert found.host.id == host.host_id
    asleep = await new(world, "paused")
    answer = await world.api.post(f"/v1/sandboxes/{asleep}/exec", {"cmd": "true"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_state")
    assert resumes(host) == 1


async def test_a_resume_whose_control_plane_died_is_finished_for_those_who_wait(
    world: World, host: SimulatedAgent
) -> None:
    sandbox_id = await new(world, "paused")
    await world.cp.db.execute(
        "UPDATE sandboxes SET state = 'resuming', generation = 2, check_after = now() + interval '1 hour'"
    )
    connecting = await waits(connect(world, sandbox_id), host)
    await world.cp.db.execute("UPDATE sandboxes SET check_after = now()")
    world.cp.wake.set()
    assert await connecting == (State.RUNNING, True)


# Everything at once


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_ends_well(
    world: World, host: SimulatedAgent, other: ControlPlane, seed: int
) -> None:
    """Connects, pauses, timeouts, ends of time and a kill, over two control planes: every one succeeds or is refused
    with a reason, and row and host agree at the end."""
    team_id = world.admin.team_id
    sandbox_id = await new(world, on_timeout="pause", timeout_sec=600)

    async def ends() -> None:
        if (held := host.host.held.get(sandbox_id)) and held.report.state is State.RUNNING:
            host.host.expires(sandbox_id)
        await host.beat()

    for round_ in range(6):
        cps = (world.cp, other) if (seed + round_) % 2 else (other, world.cp)
        works: list[Awaitable[object]] = [
            wakes.connect(cps[0], team_id, sandbox_id, timeout_sec=60),
            pauses.pause(cps[1], team_id, sandbox_id),
            timeouts.set_timeout(cps[0], team_id, sandbox_id, 120),
            timeouts.expire(cps[1], team_id, sandbox_id),
            ends(),
            wakes.connect(cps[1], team_id, sandbox_id, timeout_sec=90),
        ]
        works = works[seed:] + works[:seed]
        if round_ == 5:
            works.insert(seed, sandboxes.kill(cps[0], team_id, sandbox_id))
        async with asyncio.timeout(60):
            results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, WrennError), repr(result)
                assert result.status in (404, 409), repr(result)
        if round_ < 5:
            assert await connect(world, sandbox_id) in {(State.RUNNING, True), (State.RUNNING, False)}
            row = await sandboxes.get(world.cp, team_id, sandbox_id)
            report = host.host.held[sandbox_id].report
            assert (row.state, row.generation) == (report.state, report.generation)
            assert row.expires_at is not None
            assert row.expires_at.timestamp() == pytest.approx(report.expires_at, abs=0.001)
    assert await world.state(sandbox_id) == "killed"
    assert host.host.held == {}
