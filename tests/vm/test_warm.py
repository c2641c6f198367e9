"""Real virtual machines that stand by for the next create."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hostagent.process import COUNTER, IDENTITY, AgentProcess, count, serving, start

from wrenn_server.model.ids import new_sandbox_id

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def installation(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """One data directory for all tests, so that the template is booted once."""
    installation = AgentProcess(tmp_path_factory.mktemp("agent"), guest_images)
    installation.settings = {"AGENT_WARM": "1"}
    return installation


@pytest.fixture
async def agent(installation: AgentProcess) -> AsyncGenerator[AgentProcess]:
    async with serving(installation):
        yield installation
    assert installation.remains() == []


async def started_warm(agent: AgentProcess, token: str) -> str:
    """A sandbox whose VM is older than itself. Creates others until there is one."""
    async with asyncio.timeout(90):
        while True:
            id = new_sandbox_id()
            await agent.ok("PUT", f"/v1/sandboxes/{id}", start(token, envs={"A": "1"}))
            if id not in agent.machines():
                return id
            await agent.ok("DELETE", f"/v1/sandboxes/{id}?generation=1")


async def test_what_stood_by_becomes_a_sandbox_like_any_other(agent: AgentProcess) -> None:
    first, third = new_sandbox_id(), new_sandbox_id()
    await agent.ok("PUT", f"/v1/sandboxes/{first}", start())
    second = await started_warm(agent, "two")
    await agent.ok("PUT", f"/v1/sandboxes/{third}", start("three"))
    identities = [
        (await agent.run(id, token, IDENTITY)).split("\n")
        for id, token in ((first, "token1"), (second, "two"), (third, "three"))
    ]
    assert [identity[0] for identity in identities] == [first, second, third]
    for lines in zip(*identities, strict=True):
        assert len(set(lines)) == 3 or lines == ("", "", "")
    assert await agent.run(second, "two", "echo $A; echo kept > ~/file") == "1\n"
    await agent.run(second, "two", COUNTER)
    before = await count(agent, second, "two")

    await agent.end(signal.SIGKILL)
    await agent.start()
    assert len(agent.machines()) == 3  # what stood by went with the agent
    await count(agent, second, "two", beyond=before)

    path = f"/v1/sandboxes/{second}"
    await agent.ok("POST", f"{path}/pause", {"generation": 1})
    await agent.ok("POST", f"{path}/resume", {"generation": 2, "access_token": "four"})
    assert await agent.run(second, "four", "cat ~/file; hostname") == f"kept\n{second}\n"
    await count(agent, second, "four", beyond=before)
