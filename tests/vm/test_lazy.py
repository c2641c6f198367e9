"""Disks that are on their way from the object store while their sandbox runs: real virtual machines that are resumed where
nothing of them is."""

import asyncio
import hashlib
import random
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
from hostagent.process import COUNTER, FORGET, AgentProcess, count, serving, start

from support.held import Held
from wrenn_server.hostagent.storage import chunks
from wrenn_server.hostagent.storage.paths import OVERLAY
from wrenn_server.hostagent.storage.store import Stored, of_sandbox
from wrenn_server.model.ids import new_sandbox_id

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

MIB, SEED, WRITTEN = 48, 7, 5000
CONTENT = f"import random; open('big', 'wb').write(random.Random({SEED}).randbytes({MIB} << 20))"
MAKE = f'python3 -c "{CONTENT}"; sha256sum big > sum; sync; {FORGET}'


@pytest.fixture
async def agent(guest_images: Path, tmp_path: Path) -> AsyncGenerator[AgentProcess]:
    installation = AgentProcess(tmp_path / "agent", guest_images)
    installation.stores = True
    async with serving(installation):
        yield installation
    assert installation.remains() == []


class Sandbox:
    def __init__(self, agent: AgentProcess) -> None:
        self.agent = agent
        self.id = new_sandbox_id()
        self.path = f"/v1/sandboxes/{self.id}"
        self.count = 0

    async def leaves(self, spares: str = "0") -> None:
        """It is in the object store alone, with a large file that its memory does not have."""
        await self.agent.ok("PUT", self.path, start())
        await self.run(1, "cd; " + MAKE)
        await self.run(1, COUNTER)
        self.count = await count(self.agent, self.id, "token1")
        await self.agent.ok("POST", f"{self.path}/pause", {"generation": 1})
        await self.agent.ok("POST", f"{self.path}/store", {"generation": 1})
        await self.agent.ok("DELETE", f"{self.path}?generation=1&elsewhere=true")
        # Another agent: this one remembers what was killed.
        await self.agent.end()
        self.agent.settings = {"AGENT_SPARES": spares}
        await self.agent.start()
        if spares != "0":
            await self.agent.ok("PUT", f"/v1/sandboxes/{new_sandbox_id()}", start())
            async with asyncio.timeout(30):
                while len(self.agent.machines()) < 2:  # noqa: ASYNC110 - nobody is told of it
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1)  # its cgroup is the first that is there of it, the rest takes 60 ms

    async def comes(self) -> None:
        resume = {"generation": 2, "access_token": "token2", "stored": 1}
        report = await self.agent.ok("POST", f"{self.path}/resume", resume)
        assert report["state"] == "running"

    async def run(self, generation: int, script: str) -> str:
        return await self.agent.run(self.id, f"token{generation}", script)

    def held(self) -> Held:
        """Chunks from the middle of the large file: nothing else of the disk is there."""
        manifest = self.agent.objects / of_sandbox(self.id, 1)
        content = msgspec.json.decode(manifest.read_bytes(), type=Stored).files[OVERLAY]
        names = [name for _, name in sorted(content.chunks.items())]
        middle = len(names) // 2
        return Held([self.agent.objects / chunks.path_of(name) for name in names[middle - 8 : middle + 8]])


async def settled(sandbox: Sandbox) -> None:
    async with asyncio.timeout(60):
        while sandbox.agent.paths.lazy(sandbox.id).exists():  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("spares", ["0", "1"], ids=["", "in a VMM that waited"])
async def test_it_runs_before_its_disk_is_there(agent: AgentProcess, spares: str) -> None:
    sandbox = Sandbox(agent)
    await sandbox.leaves(spares)
    held = sandbox.held()
    await sandbox.comes()
    await count(agent, sandbox.id, "token2", beyond=sandbox.count)
    assert (
        await sandbox.run(2, "cd; head -c 4096 big | wc -c; echo new > new; sync new; cat new")
        == "4096\nnew\n"
    )
    await sandbox.run(2, "cd; dd if=/dev/zero of=wide bs=4M count=2 oflag=direct")
    assert await sandbox.run(2, "cd; cmp -n 8388608 wide /dev/zero && echo same") == "same\n"
    reading = asyncio.create_task(sandbox.run(2, "cd; sha256sum -c sum"))
    await asyncio.sleep(1)
    assert not reading.done()
    assert agent.paths.lazy(sandbox.id).exists()
    held.let_go()
    assert await reading == "big: OK\n"
    await settled(sandbox)
    await sandbox.run(2, "cd; echo newer > new; sync; " + FORGET)
    await agent.ok("POST", f"{sandbox.path}/pause", {"generation": 2})
    await agent.ok("POST", f"{sandbox.path}/resume", {"generation": 3, "access_token": "token3"})
    assert await sandbox.run(3, "cd; cat new; sha256sum -c sum") == "newer\nbig: OK\n"


async def test_an_agent_dies_while_it_arrives(agent: AgentProcess) -> None:
    """The guest waits for what it reads, and nothing that it wrote is undone by what comes later."""
    sandbox = Sandbox(agent)
    await sandbox.leaves()
    held = sandbox.held()
    await sandbox.comes()
    await sandbox.run(2, f"cd; head -c {WRITTEN} /dev/zero | dd of=big conv=notrunc,fsync; {FORGET}")
    await sandbox.run(2, "cd; (sha256sum big > after) >/dev/null 2>&1 & echo")
    await asyncio.sleep(1)  # it reads, and comes to what is not there
    await agent.end(signal.SIGKILL)
    await agent.start()
    await count(agent, sandbox.id, "token2", beyond=sandbox.count)
    assert await sandbox.run(2, "cd; cat after") == ""
    held.let_go()
    found = await sandbox.run(2, "cd; while ! [ -s after ]; do sleep 0.1; done; cat after")
    data = bytes(WRITTEN) + random.Random(SEED).randbytes(MIB << 20)[WRITTEN:]
    assert found.split()[0] == hashlib.sha256(data).hexdigest()
    await settled(sandbox)
    assert (await sandbox.run(2, f"{FORGET}; cd; sha256sum big")).split()[1:] == found.split()


async def test_a_chunk_that_was_lost_is_an_error_to_who_reads_it(agent: AgentProcess) -> None:
    sandbox = Sandbox(agent)
    await sandbox.leaves()
    for path in sandbox.held().objects:  # a store that has them no more
        path.unlink()
    await sandbox.comes()
    assert "Input/output error" in await sandbox.run(2, "cd; sha256sum big")
    assert (
        await sandbox.run(2, "cd; head -c 4096 big | wc -c; echo new > new; sync new; cat new")
        == "4096\nnew\n"
    )
    status, answer = await agent.call("POST", f"{sandbox.path}/pause", {"generation": 2})
    assert (status, answer["error"]["code"]) == (500, "snapshot_damaged")
    await count(agent, sandbox.id, "token2", beyond=sandbox.count)
