"""A sandbox that is paused and resumed again and again, with writes under way in its memory, in its page cache and on its
disk: each of them is a hash chain, and none may ever lose a link that somebody has seen."""

import hashlib
import itertools
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hostagent.process import AgentProcess, serving, start

from wrenn_server.model.ids import new_sandbox_id

CYCLES = int(os.environ.get("WRENN_TEST_PAUSES", "15"))
"""300 are made by hand."""

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120 + 10 * CYCLES)]

WRITER = """
import hashlib, os, time
link = b"wrenn"
memory, disk, cache = (open(path, "ab", buffering=0) for path in ("/dev/shm/chain", "disk", "cache"))
pages = open("pages", "wb", buffering=0)
for number in range(1 << 30):
    link = hashlib.sha256(link).digest()
    line = b"%d %s\\n" % (number, link.hex().encode())
    memory.write(line)
    disk.write(line)
    os.fdatasync(disk.fileno())
    cache.write(line)
    os.pwrite(pages.fileno(), link * 2048, number % 64 << 16)
    time.sleep(0.02)
"""
"""`pages` is 4 MiB of page cache that is dirty nearly all the time."""

READER = """
import hashlib, itertools
lines = [open(path).read().split("\\n")[:-1] for path in ("/dev/shm/chain", "disk", "cache")]
assert max(map(len, lines)) - min(map(len, lines)) <= 1, [*map(len, lines)]
link, links = b"wrenn", []
for number in range(len(lines[0])):
    link = hashlib.sha256(link).digest()
    links.append(link)
    assert all(one[number] == f"{number} {link.hex()}" for one in lines if number < len(one)), number
pages = open("pages", "rb").read()
written = len(lines[2])
for number in range(max(0, written - 64), written - 1):
    assert pages[number % 64 << 16 :][: 1 << 16] == links[number] * 2048, number
print("whole", written)
"""
HEADS = "tail -qn 1 /dev/shm/chain ~/disk ~/cache"


@pytest.fixture
async def agent(guest_images: Path, tmp_path: Path) -> AsyncGenerator[AgentProcess]:
    agent = AgentProcess(tmp_path, guest_images)
    agent.settings = {"AGENT_SPARES": "1"}
    async with serving(agent):
        yield agent
    assert agent.remains() == []


class Chain:
    """What the writer's links are."""

    def __init__(self) -> None:
        self._links = [b"wrenn"]

    def line(self, number: int) -> str:
        while len(self._links) <= number + 1:
            self._links.append(hashlib.sha256(self._links[-1]).digest())
        return f"{number} {self._links[number + 1].hex()}"


def allocated(directory: Path) -> int:
    """Bytes of disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


async def test_no_link_is_ever_lost(agent: AgentProcess) -> None:
    id, chain, seen, sizes = new_sandbox_id(), Chain(), [0, 0, 0], list[int]()
    path = f"/v1/sandboxes/{id}"
    await agent.ok("PUT", path, start("token1"))
    run = "setsid python3 writer.py > /dev/null 2> error < /dev/null & echo $! > pid"
    run = "setsid python3 writer.py > /dev/null 2> error < /dev/null & echo $! > pid"
    await agent.run(id, "token1", f"cd ~; cat > writer.py << 'END'\n{WRITER}\nEND\n{run}")
    await agent.run(id, "token1", "until [ -s ~/cache ]; do sleep 0.05; done")
    for generation in itertools.islice(itertools.count(1), CYCLES):
        token = f"token{generation}"
        lines = (await agent.run(id, token, HEADS)).split("\n")[:-1]
        numbers = [int(line.split()[0]) for line in lines]
        assert lines == [chain.line(number) for number in numbers]
        assert all(now >= before for now, before in zip(numbers, seen, strict=True)), (numbers, seen)
        seen = numbers
        await agent.ok("POST", f"{path}/pause", {"generation": generation})
        assert len([*(agent.paths.snapshots / id).iterdir()]) == 1
        sizes.append(allocated(agent.paths.snapshots / id))
        body = {"generation": generation + 1, "access_token": f"token{generation + 1}"}
        await agent.ok("POST", f"{path}/resume", body)
    token = f"token{CYCLES + 1}"
    reader = f"cd ~; kill -STOP $(cat pid); cat > reader.py << 'END'\n{READER}\nEND\npython3 reader.py 2>&1; cat error"
    said = await agent.run(id, token, reader)
    assert said.startswith("whole "), said
    assert int(said.split()[1]) >= max(seen)
    assert sizes[-1] < 2 * sizes[min(9, CYCLES - 1)]  # each pause replaces the one before
