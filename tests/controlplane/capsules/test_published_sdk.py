"""The published `wrenn` 0.3.0 SDK, unmodified: every public method. envd is real; its sandbox is this machine."""

import asyncio
from pathlib import Path

import pytest

from support.published import published, started
from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent

__all__ = ["published"]

PROGRAM = Path(__file__).with_name("published_sdk.py")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("half", ["sync", "async"])
async def test_every_method(
    world: World, host_with_envd: SimulatedAgent, published: Path, tmp_path: Path, half: str
) -> None:
    async with started(world, published, PROGRAM, half, str(tmp_path)) as process, asyncio.timeout(200):
        _, told = await process.communicate()
    assert process.returncode == 0, told.decode()
