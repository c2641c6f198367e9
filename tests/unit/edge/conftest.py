"""Every test with a loop runs on uvloop, which production uses, and on asyncio's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import hypothesis
import pytest_asyncio
import uvloop
from unit.edge.loopback import World

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("edge", deadline=None)
hypothesis.settings.load_profile("edge")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(stack)
