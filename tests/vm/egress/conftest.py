"""On the loop that the agent runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop
from vm.egress import internet as names
from vm.egress.internet import RULES, Internet

from support.network_world import World, pool
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.egress.enforcer import Enforcer
from wrenn_server.hostagent.network.slots import Slots, clean_up


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def internet(world: World, tmp_path: Path) -> AsyncIterator[Internet]:
    async with names.internet(world, tmp_path) as internet:
        yield internet


@pytest.fixture
async def slots(internet: Internet, tag: str, tmp_path: Path) -> AsyncIterator[Slots]:
    try:
        async with pool(tag, resolv_conf=tmp_path / "resolv.conf") as slots:
            yield slots
    finally:
        await clean_up(tag)


@pytest.fixture
async def egress(slots: Slots, slot: Slot) -> AsyncIterator[Enforcer]:
    async with slots.enforcing(slot, RULES) as egress:
        yield egress
