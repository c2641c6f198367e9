"""The published `wrenn` 0.3.0 SDK, unmodified: every public method. envd is real; its sandbox is this machine."""

import asyncio
import time
from pathlib import Path

import pytest

from support.published import published, started
from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.wire.agent import Sample

__all__ = ["published"]

PROGRAM = Path(__file__).with_name("published_sdk.py")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("half", ["sync", "async"])
async def test_every_method(
    world: World, host_with_envd: SimulatedAgent, published: Path, tmp_path: Path, half: str
) -> None:
    ended = (await world.new_sandbox())["id"]
    await world.api.delete(f"/v1/sandboxes/{ended}")
    used = Sample(
        sandbox_id=ended, at=time.time() - 60, cpu_count=2, cpu_used_pct=50.0, mem_used=100 << 20, mem_total=1 << 30,
        mem_cache=0, disk_used=0, disk_total=0, seconds=60.0,
    )  # fmt: skip
    await host_with_envd.send([used])
    async with started(world, published, PROGRAM, half, str(tmp_path)) as process, asyncio.timeout(200):
        _, told = await process.communicate()
    assert process.returncode == 0, told.decode()
