"""What keeps a real sandbox alive beyond its time, and that it ends when that is over."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hostagent.process import AgentProcess, serving, start

from wrenn_server.model.ids import new_sandbox_id

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]
IDLE = 6.0
"""Seconds."""


@pytest.fixture(scope="module")
def installation(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """One data directory for all tests, so that the template is booted once."""
    return AgentProcess(tmp_path_factory.mktemp("agent"), guest_images)


@pytest.fixture
async def agent(installation: AgentProcess) -> AsyncGenerator[AgentProcess]:
    async with serving(installation):
        yield installation
    assert installation.remains() == []


async def ended(agent: AgentProcess, id: str) -> dict[str, Any]:
    """The last report of it as a running one. Agents tell changes to control planes alone, so we ask."""
    report: dict[str, Any] = {}
    while (now := await agent.ok("GET", f"/v1/sandboxes/{id}"))["state"] == "running":
        report = now
        await asyncio.sleep(0.1)
    return report


@pytest.mark.parametrize("by", ["command", "api"])
async def test_a_use_puts_the_end_off(agent: AgentProcess, by: str) -> None:
    id = new_sandbox_id()
    lease: dict[str, Any] = {"ttl_sec": IDLE, "keep_alive": {"by": [by], "idle_sec": IDLE}}
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start(**lease))
    if by == "command":  # nobody is connected to it meanwhile
        await agent.background(id, "token1", "sleep 7")
        until = time.time() + 7
    else:  # every other second
        for _ in range(4):
            assert await agent.run(id, "token1", "sleep 1.5; echo here") == "here\n"
        until = time.time()
    report = await ended(agent, id)
    assert report["put_off"]
    assert until + IDLE - 1.5 < report["expires_at"] < until + IDLE + 1.5
    assert time.time() > report["expires_at"] - 0.1


async def test_what_was_not_chosen_does_not(agent: AgentProcess) -> None:
    id = new_sandbox_id()
    lease: dict[str, Any] = {"ttl_sec": IDLE, "keep_alive": {"by": ["traffic", "terminal"], "idle_sec": IDLE}}
    report = await agent.ok("PUT", f"/v1/sandboxes/{id}", start(**lease))
    await agent.background(id, "token1", "sleep 100")
    assert (await ended(agent, id)).get("expires_at", report["expires_at"]) == report["expires_at"]
