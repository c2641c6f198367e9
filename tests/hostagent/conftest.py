import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hostagent.control_plane import FakeControlPlane
from hostagent.world import World

from wrenn_server.model.sandbox import Reason


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    world = World(tmp_path)
    yield world
    for vm in list(world.vms.values()):  # they outlive their agent, not their test
        vm.end(Reason.USER, "")
    await asyncio.sleep(0)  # for the transports to close


@pytest.fixture
async def cp() -> AsyncGenerator[FakeControlPlane]:
    fake = FakeControlPlane()
    async with fake.serving():
        yield fake
