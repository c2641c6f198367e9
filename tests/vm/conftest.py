"""A host, an internet and a guest of network namespaces: see `support.network_world`."""

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from support import network_world as net
from support.network_world import Guest, World, pool
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.slots import Slots, clean_up


@pytest.fixture
def tag() -> str:
    return secrets.token_hex(2)


@pytest.fixture
def world() -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed")
    with net.world() as world:
        yield world


@pytest.fixture
async def slots(world: World, tag: str) -> AsyncIterator[Slots]:
    try:
        async with pool(tag) as slots:
            yield slots
    finally:
        await clean_up(tag)


@pytest.fixture
async def slot(slots: Slots) -> Slot:
    return await slots.acquire()


@pytest.fixture
async def guest(slot: Slot) -> AsyncIterator[Guest]:
    async with net.guest(slot) as guest:
        yield guest
