"""The published `wrenn` 0.3.0 SDK understands each frame of the stream."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from support.published import published, started
from support.simulated import World, eventually
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Unavailable

__all__ = ["published"]

PROGRAM = Path(__file__).with_name("wrenn_sdk_events.py")


@pytest.mark.parametrize("half", ["sync", "async"])
async def test_it_understands_every_event(
    world: World, host: SimulatedAgent, published: Path, half: str
) -> None:
    count = 12
    async with started(world, published, PROGRAM, str(count + 1), half) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        connected = await process.stdout.readline()
        assert connected, (await process.stderr.read()).decode()
        assert json.loads(connected)["event"] == "connected"
        await everything_that_happens(world, host)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert len(told) == count
    assert {event["event"] for event in told} == {
        "capsule.create",
        "capsule.pause",
        "capsule.resume",
        "capsule.destroy",
        "capsule.state.changed",
        "template.snapshot.create",
        "template.snapshot.delete",
    }
    states = {event["sandbox"]["status"] for event in told if event["sandbox"]}
    assert states == {"running", "pausing", "paused", "resuming", "missing", "error", "stopping", "stopped"}


async def everything_that_happens(world: World, host: SimulatedAgent) -> None:
    """12 events that a team hears."""
    id = (await world.new_sandbox(metadata={"a": "b"}))["id"]
    snapshot = (await world.api.post(f"/v1/sandboxes/{id}/snapshots", {})).json()["id"]
    await world.api.delete(f"/v1/snapshots/{snapshot}")
    await world.api.post(f"/v1/sandboxes/{id}/pause")
    await world.api.post(f"/v1/sandboxes/{id}/resume")
    change = "UPDATE sandboxes SET state = $2, reason = 'host_lost' WHERE id = $1"
    await world.cp.db.execute(change, id, "lost")
    await world.cp.db.execute(change, id, "running")
    await world.api.delete(f"/v1/sandboxes/{id}")

    async def fail(command: object, sandbox_id: str) -> None:
        raise Unavailable("no slot is left", code="no_slots", retryable=False)

    host.host.before = fail
    await world.api.post("/v1/sandboxes", {})

    async def failed() -> bool:
        return len((await world.api.get("/v1/events?type=sandbox.create")).json()) == 2

    await eventually(failed)
