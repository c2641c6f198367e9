"""Many real virtual machines made and killed: everything on the host returns to what it was."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hostagent.process import AgentProcess, serving, start

from wrenn_server.model.ids import new_sandbox_id

CYCLES = int(os.environ.get("WRENN_TEST_VM_CYCLES", "20"))
"""200 are made by hand."""
AT_ONCE = 4

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120 + 10 * CYCLES)]


@pytest.fixture
async def agent(guest_images: Path, tmp_path: Path) -> AsyncGenerator[AgentProcess]:
    agent = AgentProcess(tmp_path, guest_images)
    agent.settings = {"AGENT_SLOTS": "8", "AGENT_SPARES": "2"}
    async with serving(agent):
        yield agent
    assert agent.remains() == []


def counted(agent: AgentProcess) -> dict[str, int]:
    assert agent.process is not None
    tag, pid = agent.paths.tag, agent.process.pid
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return {
        "fds of the agent": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads of the agent": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "children of the agent": len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()),
        "VMs": sum(str(agent.paths.run).encode() in command for command in commands),
        "namespaces": sum(tag in path.name for path in Path("/run/netns").iterdir()),
        "devices": sum(tag in path.name for path in Path("/sys/class/net").iterdir()),
        "control groups": len(list(Path("/sys/fs/cgroup").glob(f"**/wrenn-{tag}/*/"))),
        "files": sum(1 for path in agent.paths.data.rglob("*") if "__pycache__" not in path.parts),
        "mounts": Path("/proc/self/mountinfo").read_text().count(str(agent.paths.data)),
    }


async def cycle(agent: AgentProcess, turns: asyncio.Semaphore) -> None:
    id = new_sandbox_id()
    async with turns:
        await agent.ok("PUT", f"/v1/sandboxes/{id}", start())
        assert await agent.run(id, "token1", "echo here") == "here\n"
        await agent.ok("DELETE", f"/v1/sandboxes/{id}?generation=1")


async def test_nothing_is_left_of_them(agent: AgentProcess) -> None:
    turns = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(
        *(cycle(agent, turns) for _ in range(2 * AT_ONCE))
    )  # the template is there, pools are full
    before = await settled(agent, {})
    await asyncio.gather(*(cycle(agent, turns) for _ in range(CYCLES)))
    assert await settled(agent, before) == before


async def settled(agent: AgentProcess, wanted: dict[str, int]) -> dict[str, int]:
    """Slots are made anew, and idle connections closed after 5 s: what it is when it is as wanted, or does not change
    any more."""
    last, same = counted(agent), 0
    while last != wanted and same < 25:
        await asyncio.sleep(0.3)
        now = counted(agent)
        last, same = now, same + 1 if now == last else 0
    return last
