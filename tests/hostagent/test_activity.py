"""What puts off the end of a sandbox's time."""

import asyncio
from pathlib import Path

import pytest
from hostagent.world import ID, OTHER, World, pause, start
from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.hostagent import tunnel
from wrenn_server.hostagent.sandbox.lifecycle import put_off
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.model.sandbox import Activity, State
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd

SECONDS = st.floats(0, 1e9)


def by(*kinds: Activity, idle_sec: float = 10) -> wire.KeepAlive:
    return wire.KeepAlive(by=list(kinds), idle_sec=idle_sec)


async def begin(world: World, agent: Registry, *kinds: Activity) -> None:
    await agent.start(ID, start(ttl_sec=10, keep_alive=by(*kinds)))
    await asyncio.sleep(0)  # the alarm is set


async def after(world: World, agent: Registry, seconds: float) -> State:
    """What it is when so much time has passed and all that follows from it has happened."""
    world.clock.advance(seconds)
    await agent.timeout(OTHER, wire.Timeout(generation=1, ttl_sec=None))  # a turn of the loop and of the disk
    for _ in range(50):
        await asyncio.sleep(0.001)
    return agent.get(ID).state


@pytest.mark.parametrize(
    ("kinds", "port", "used"),
    [
        ([Activity.API], envd.PORT, True),
        ([Activity.API], 8080, False),
        ([Activity.TRAFFIC], 8080, True),
        ([Activity.TRAFFIC], envd.PORT, False),
        ([Activity.API, Activity.TRAFFIC], 8080, True),
        ([], 8080, False),
    ],
)
async def test_what_goes_through_tunnels(world: World, kinds: list[Activity], port: int, used: bool) -> None:
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        await begin(world, agent, *kinds)
        assert await after(world, agent, 6) is State.RUNNING
        tunnel.noting(world.used)(f"{ID}:{port}")
        assert await after(world, agent, 4.5) is (State.RUNNING if used else State.KILLED)
        if used:
            report = agent.get(ID)
            assert report.put_off
            assert report.expires_at == 1_000_016, "so long after the last use, not after we looked"
            assert await after(world, agent, 5) is State.RUNNING
            assert await after(world, agent, 0.6) is State.KILLED


@pytest.mark.parametrize(
    ("kinds", "answer", "used"),
    [
        ([Activity.COMMAND], b'{"command": 0}', True),
        ([Activity.COMMAND], b'{"command": 4.5, "terminal": 0}', True),
        ([Activity.COMMAND], b'{"command": 11, "terminal": 0}', False),
        ([Activity.TERMINAL], b'{"command": 0, "terminal": 2}', True),
        ([Activity.TERMINAL], b'{"command": 0}', False),
        ([Activity.COMMAND], b'{"command": -1e300}', True),
        ([Activity.COMMAND], b'{"command": "x"}', False),
        ([Activity.COMMAND], b"\xff" * 70_000, False),
        ([Activity.API], b'{"command": 0, "terminal": 0}', False),
    ],
)
async def test_what_the_guest_says_goes_on_in_it(
    world: World, kinds: list[Activity], answer: bytes, used: bool
) -> None:
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        await begin(world, agent, *kinds)
        world.vm().envd.idle = answer
        assert await after(world, agent, 10.5) is (State.RUNNING if used else State.KILLED)
        if used:
            assert 1_000_010.5 < (agent.get(ID).expires_at or 0) <= 1_000_020.5


async def test_a_new_agent_takes_the_last_end_for_a_use(world: World) -> None:
    async with world.agent() as agent:
        await begin(world, agent, Activity.TRAFFIC)
    world.clock.advance(5)
    world.used = type(world.used)(world.clock)
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        assert await after(world, agent, 5.5) is State.RUNNING
        assert agent.get(ID).expires_at == 1_000_015


async def test_a_new_timeout_is_what_was_set(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        await begin(world, agent, Activity.TRAFFIC)
        tunnel.noting(world.used)(f"{ID}:80")
        body = wire.Timeout(generation=1, ttl_sec=100, keep_alive=by(Activity.TRAFFIC, idle_sec=100))
        report = await agent.timeout(ID, body)
        assert (report.expires_at, report.put_off) == (1_000_100, False)


async def test_a_pause_at_the_end_is_put_off_too(world: World) -> None:
    async with world.agent() as agent:
        await agent.start(OTHER, start())
        await agent.start(ID, start(ttl_sec=10, on_timeout="pause", keep_alive=by(Activity.TRAFFIC)))
        await asyncio.sleep(0)
        world.clock.advance(9)
        tunnel.noting(world.used)(f"{ID}:80")
        assert await after(world, agent, 1.5) is State.RUNNING
        assert await after(world, agent, 9) is State.PAUSED
        await agent.pause(OTHER, pause())


@pytest.mark.parametrize("target", ["/v1/sandboxes", f"{ID}:0", "../x:80", "x" * 10_000, f"{ID}:99999", ""])
def test_what_is_no_tunnel_is_not_noted(tmp_path: Path, target: str) -> None:
    world = World(tmp_path)
    tunnel.noting(world.used)(target)
    world.clock.advance(5)
    assert world.used.last(ID, [Activity.TRAFFIC]) == 1_000_000


@given(idle=st.floats(1e-3, 1e7), last=st.none() | SECONDS, now=SECONDS)
def test_an_end_is_put_off_to_later_or_not_at_all(idle: float, last: float | None, now: float) -> None:
    after = put_off(idle, last, now)
    assert after is None or now < after <= now + idle
