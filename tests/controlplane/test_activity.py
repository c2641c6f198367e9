"""What puts off the timeout of sandboxes: chosen at their creation, told to hosts, heard from them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.sandbox import Activity
from wrenn_server.wire import agent as wire


def told(host: SimulatedAgent) -> wire.KeepAlive | None:
    body: Any = host.host.bodies[-1]
    return body.targets[0].keep_alive if isinstance(body, wire.Fork) else body.keep_alive


async def test_traffic_and_calls_do_by_default(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox(timeout_sec=60)
    assert made["activity"] == ["api", "traffic"]
    assert told(host) == wire.KeepAlive(by=[Activity.API, Activity.TRAFFIC], idle_sec=60)
    await world.new_sandbox()
    assert told(host) is None, "it never ends"


async def test_the_choice_stays_through_all_its_lives(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox(timeout_sec=60, activity=["command", "terminal", "command"])
    path, chosen = f"/v1/sandboxes/{made['id']}", [Activity.COMMAND, Activity.TERMINAL]
    assert made["activity"] == ["command", "terminal"]
    await world.api.post(f"{path}/timeout", {"timeout_sec": 90})
    assert told(host) == wire.KeepAlive(by=chosen, idle_sec=90)
    await world.api.post(f"{path}/fork", {"timeout_sec": 30})
    assert told(host) == wire.KeepAlive(by=chosen, idle_sec=30)
    await world.api.post(f"{path}/pause")
    await world.api.post(f"{path}/resume")
    assert told(host) == wire.KeepAlive(by=chosen, idle_sec=90)
    await world.new_sandbox(timeout_sec=60, activity=[])
    assert told(host) is None


@pytest.mark.parametrize("activity", ["api", ["sleep"], [1], ["api"] * 5])
async def test_what_is_no_activity_is_refused(world: World, activity: object) -> None:
    answer = await world.api.post("/v1/sandboxes", {"activity": activity}, wrong=True)
    assert answer.status_code == 400, answer.text


async def test_an_end_that_was_put_off_is_shown(world: World, host: SimulatedAgent) -> None:
    used, fixed = [await world.new_sandbox(timeout_sec=60, **more) for more in ({}, {"activity": []})]
    later = datetime.now(UTC) + timedelta(seconds=500)
    for made in (used, fixed):
        held = host.host.held[made["id"]]
        held.report = replace(held.report, expires_at=later.timestamp(), put_off=True)
    await host.beat()
    shown = (await world.api.get(f"/v1/sandboxes/{used['id']}")).json()
    assert datetime.fromisoformat(shown["expires_at"]) == later
    # What its host cannot have done is not believed.
    shown = (await world.api.get(f"/v1/sandboxes/{fixed['id']}")).json()
    assert shown["expires_at"] == fixed["expires_at"]
