"""Many forks of one real virtual machine: none is mistaken for another, from its first command on. And the way back."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from hostagent.process import COUNTER, AgentProcess, count, serving, start
from vm.test_firecracker import binaries, count_beyond, data, driver, nothing_left, save, tiny

from support.vm_places import VmPlaces, vm_places
from wrenn_server.hostagent.vmm.firecracker import FirecrackerDriver
from wrenn_server.model.ids import new_sandbox_id, new_snapshot_id
from wrenn_server.model.sandbox import RENEWED

pytestmark = [pytest.mark.timeout(600)]
__all__ = ["binaries", "data", "driver"]

FORKS = int(os.environ.get("WRENN_TEST_FORKS", "20"))
"""100 are made by hand: `WRENN_TEST_FORKS=100`; they take 20 GiB."""
AT_ONCE = 4
"""First commands at one time: where guests are emulated, twenty at once make each of them wait for all others."""
IDENTITY = (
    "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid;"
    " head -c 32 /dev/urandom | od -An -v -tx1 -w32"
)


@pytest.fixture(scope="module")
def installation(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """One data directory for all tests, so that the template is booted once."""
    agent = AgentProcess(tmp_path_factory.mktemp("agent"), guest_images)
    agent.settings = {
        "AGENT_SLOTS": str(FORKS + 8),
        "AGENT_SPARES": "12",
        "AGENT_START_TIMEOUT": "120",
    }
    return agent


@pytest.fixture
async def agent(installation: AgentProcess) -> AsyncGenerator[AgentProcess]:
    async with serving(installation):
        yield installation
    assert installation.remains() == []


@pytest.mark.vm
async def test_forks_have_nothing_in_common_but_their_past(agent: AgentProcess) -> None:
    id, forks = new_sandbox_id(), [new_sandbox_id() for _ in range(FORKS)]
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start())
    # A program that sleeps: a hundred that count would take all of an emulating host.
    await agent.run(id, "token1", "(sleep 10000 & echo $! > /dev/shm/past) > /dev/null 2>&1")
    past = await agent.run(id, "token1", "cat /dev/shm/past")
    targets = [{"id": fork, "generation": 1, "access_token": f"of {fork}"} for fork in forks]
    body = {"generation": 1, "targets": targets}
    results = (await agent.ok("POST", f"/v1/sandboxes/{id}/fork", body))["results"]
    assert [result["error_message"] for result in results] == [None] * FORKS
    no_server = [word for word in RENEWED if word != "ssh_host_keys"]
    assert all(result["report"]["renewed"] == no_server for result in results)

    named = {id: "token1"} | {fork: f"of {fork}" for fork in forks}
    turns = asyncio.Semaphore(AT_ONCE)

    async def first_command(name: str, token: str) -> str:
        async with turns:
            return await agent.run(name, token, IDENTITY)

    answers = await asyncio.gather(*(first_command(name, token) for name, token in named.items()))
    told = [answer.split("\n")[:5] for answer in answers]
    assert [name for name, *_ in told] == list(named)
    for kind in zip(*told, strict=True):
        assert len(set(kind)) == FORKS + 1, kind
    for fork in forks[:3]:
        script = "cat /dev/shm/past; tr '\\0' ' ' < /proc/$(cat /dev/shm/past)/cmdline"
        assert await agent.run(fork, f"of {fork}", script) == past + "sleep 10000 "
        for stranger in ("token1", f"of {forks[-1]}"):
            with pytest.raises(AssertionError, match="unauthorized"):
                await agent.run(fork, stranger, "true")


@pytest.mark.vm
async def test_a_fork_has_ssh_host_keys_of_its_own_and_a_resume_keeps_them(agent: AgentProcess) -> None:
    id, fork, path = new_sandbox_id(), new_sandbox_id(), "/etc/ssh/ssh_host_"
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start())
    kinds = f"for kind in ed25519 ecdsa; do sudo ssh-keygen -q -t $kind -N '' -f {path}${{kind}}_key; done"
    await agent.run(id, "token1", f"{kinds}; echo old | sudo tee {path}rsa_key {path}rsa_key.pub")
    fast = f"for kind in ed25519 ecdsa; do cat {path}${{kind}}_key.pub; sudo ssh-keygen -y -f {path}${{kind}}_key; done"

    async def known(id: str, token: str) -> list[str]:
        """The keys in the public files and those that belong to the private ones."""
        return [line.split()[1] for line in (await agent.run(id, token, fast)).split("\n")[:-1]]

    keys = await known(id, "token1")
    assert len(keys) == 4
    assert keys[::2] == keys[1::2]

    targets = [{"id": fork, "generation": 1, "access_token": "token2"}]
    answer = await agent.ok("POST", f"/v1/sandboxes/{id}/fork", {"generation": 1, "targets": targets})
    assert "ssh_host_keys" in answer["results"][0]["report"]["renewed"]
    others = await known(fork, "token2")
    assert others[::2] == others[1::2]
    assert len({*keys, *others}) == 4
    # Made beside what goes on; until then there is none.
    await agent.run(fork, "token2", f"until [ -s {path}rsa_key.pub ]; do sleep 0.2; done")
    assert (await agent.run(fork, "token2", f"cat {path}rsa_key.pub")).startswith("ssh-rsa ")

    assert await known(id, "token1") == keys
    await agent.ok("POST", f"/v1/sandboxes/{id}/pause", {"generation": 1})
    body = {"generation": 2, "access_token": "token3"}
    report = await agent.ok("POST", f"/v1/sandboxes/{id}/resume", body)
    assert "ssh_host_keys" not in report["renewed"]
    assert await known(id, "token3") == keys


@pytest.mark.vm
@pytest.mark.parametrize("memory", [True, False], ids=["with memory", "disk alone"])
async def test_back_to_a_snapshot_of_itself(agent: AgentProcess, memory: bool) -> None:
    id, snapshot = new_sandbox_id(), new_snapshot_id()
    path = f"/v1/sandboxes/{id}"
    await agent.ok("PUT", path, start(envs={"A": "1"}))
    await agent.run(id, "token1", "echo then > ~/file; echo then > /dev/shm/file; " + COUNTER)
    await agent.ok("POST", f"{path}/snapshot", {"generation": 1, "id": snapshot, "memory": memory})
    boot_id = await agent.run(id, "token1", "cat /proc/sys/kernel/random/boot_id")
    await agent.run(
        id, "token1", "echo later > ~/file; echo later > /dev/shm/file; touch ~/more; pkill -f tmp.count"
    )

    for generation in (2, 3):
        await agent.ok("POST", f"{path}/pause", {"generation": generation - 1})
        body = {"generation": generation, "access_token": f"token{generation}", "snapshot": snapshot}
        report = await agent.ok("POST", f"{path}/resume", body)
        assert (report["state"], report["generation"]) == ("running", generation)
        token = f"token{generation}"
        script = "hostname; echo $A; cat ~/file; cat /dev/shm/file || echo none; ls ~/more || echo none"
        answer = await agent.run(id, token, f"({script}) 2> /dev/null")
        assert answer.split() == [id, "1", "then", "then" if memory else "none", "none"]
        assert await agent.run(id, token, "cat /proc/sys/kernel/random/boot_id") != boot_id
        if memory:
            await count(agent, id, token, beyond=await count(agent, id, token))
        await agent.run(id, token, "echo later > ~/file; touch ~/more")


@pytest.fixture
def places(tmp_path: Path) -> Iterator[VmPlaces]:
    yield from vm_places(tmp_path / "places")


@contextlib.asynccontextmanager
async def forked(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, snapshot: Path, last: int
) -> AsyncGenerator[None]:
    where = places.make(overlay_mb=1)
    async with driver.restore(tiny(where, data), where.place, snapshot) as vm:
        assert (await count_beyond(vm, last))[0] == last + 1
        yield
    assert list(where.place.directory.iterdir()) == []


@pytest.mark.firecracker
async def test_forks_of_the_tiny_guest_go_on_side_by_side(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, tmp_path: Path
) -> None:
    source = places.make()
    async with driver.boot(tiny(source, data), source.place, template=True) as vm:
        await count_beyond(vm, 2)
        last = await save(vm, tmp_path / "snapshot")
        await vm.resume()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(FORKS):
                await stack.enter_async_context(forked(driver, places, data, tmp_path / "snapshot", last))
            await count_beyond(vm, last + 1)
    assert nothing_left(places, source)
