"""Real VMMs that wait, and what becomes of them."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from hostagent.process import COUNTER, IDENTITY, AgentProcess, count, serving, start

from wrenn_server.model.ids import new_sandbox_id

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]

WRITE = "head -c 48M /dev/urandom > ~/large; sync; md5sum < ~/large"
READ = "dd if=$HOME/large bs=1M iflag=direct status=none | md5sum"


@pytest.fixture(scope="module")
def installation(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """One data directory for all tests, so that the template is booted once."""
    return AgentProcess(tmp_path_factory.mktemp("agent"), guest_images)


@pytest.fixture
async def agent(installation: AgentProcess) -> AsyncGenerator[AgentProcess]:
    installation.settings = {"AGENT_SPARES": "3"}
    async with serving(installation):
        yield installation
    assert installation.remains() == []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nobody is told of a VMM that is nobody's
            await asyncio.sleep(0.1)


async def created(agent: AgentProcess, token: str) -> str:
    id = new_sandbox_id()
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start(token))
    return id


async def after_a_rest(agent: AgentProcess, count: int) -> set[str]:
    """Names of those that wait, when so many do."""
    await until(lambda: len(agent.machines()) == count)
    await asyncio.sleep(1)  # the cgroup is the first that is there of the last one
    return agent.machines()


async def test_creates_forks_and_resumes_load_what_waits(agent: AgentProcess) -> None:
    ids = [await created(agent, f"token{n}") for n in range(3)]
    assert {*ids} <= agent.machines()
    spares = await after_a_rest(agent, 6) - {*ids}

    fourth = await created(agent, "four")
    assert fourth not in agent.machines()
    digest = await agent.run(fourth, "four", WRITE)
    await agent.run(fourth, "four", COUNTER)
    before = await count(agent, fourth, "four")

    targets = [{"id": id, "generation": 1, "access_token": id} for id in (new_sandbox_id(), new_sandbox_id())]
    await agent.ok("POST", f"/v1/sandboxes/{fourth}/fork", {"generation": 1, "targets": targets})
    copies = [str(target["id"]) for target in targets]
    assert not {*copies} & agent.machines()
    assert spares <= agent.machines()
    identities = [
        await agent.run(id, token, IDENTITY) for id, token in ((fourth, "four"), *((id, id) for id in copies))
    ]
    for lines in zip(*(identity.split("\n") for identity in identities), strict=True):
        assert len(set(lines)) == 3 or set(lines) == {""}
    for id in copies:
        assert await agent.run(id, id, READ) == digest
        await count(agent, id, id, beyond=before)
        await agent.ok("DELETE", f"/v1/sandboxes/{id}?generation=1")

    await after_a_rest(agent, 4 + 3)
    path = f"/v1/sandboxes/{fourth}"
    await agent.ok("POST", f"{path}/pause", {"generation": 1})
    await agent.ok("POST", f"{path}/resume", {"generation": 2, "access_token": "five"})
    assert fourth not in agent.machines()
    assert await agent.run(fourth, "five", READ) == digest
    await count(agent, fourth, "five", beyond=before)


async def test_what_was_loaded_outlives_its_agent_and_what_waits_does_not(agent: AgentProcess) -> None:
    first = await created(agent, "one")
    await after_a_rest(agent, 2)
    second = await created(agent, "two")
    digest = await agent.run(second, "two", WRITE)
    await agent.run(second, "two", COUNTER)
    before = await count(agent, second, "two")
    await after_a_rest(agent, 4)

    await agent.end(signal.SIGKILL)
    await agent.start()
    left = agent.machines()
    assert len(left) == 2
    assert first in left
    await count(agent, second, "two", beyond=before)
    assert await agent.run(second, "two", READ) == digest

    path = f"/v1/sandboxes/{second}"
    await agent.ok("POST", f"{path}/pause", {"generation": 1})
    changes = next((agent.paths.snapshots / second).rglob("changes"))
    assert changes.stat().st_size > 0  # its memory is the template's still
    await agent.ok("POST", f"{path}/resume", {"generation": 2, "access_token": "three"})
    await count(agent, second, "three", beyond=before)
