"""Real virtual machines that are saved: pauses of the disk alone, and named snapshots."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hostagent.process import COUNTER, AgentProcess, count, serving, start

from wrenn_server.model.errors import WrennError
from wrenn_server.model.ids import new_sandbox_id, new_snapshot_id

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def installation(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """One data directory for all tests, so that the template is booted once."""
    return AgentProcess(tmp_path_factory.mktemp("agent"), guest_images)


@pytest.fixture
async def agent(installation: AgentProcess) -> AsyncGenerator[AgentProcess]:
    async with serving(installation):
        yield installation
    assert installation.remains() == []


@pytest.mark.parametrize("keep", [True, False], ids=["memory left behind", "disk alone"])
async def test_a_reboot_keeps_files_and_variables_and_nothing_else(agent: AgentProcess, keep: bool) -> None:
    id = new_sandbox_id()
    path = f"/v1/sandboxes/{id}"
    await agent.ok("PUT", path, start(envs={"GREETING": "hello"}))
    script = (
        "sudo sh -c 'mkdir /data; mv /opt /data/opt'; chmod 600 ~/.profile; echo in memory > /dev/shm/file; "
    )
    await agent.run(id, "token1", script + COUNTER)
    before = await agent.run(id, "token1", BOOT_ID)
    # Acknowledged and never synced by anybody but the pause.
    await agent.run(id, "token1", "seq 100000 > ~/file; sha256sum ~/file > ~/sum")
    report = await agent.ok("POST", f"{path}/pause", {"generation": 1, "memory": keep})
    assert (report["state"], report["saved_memory"], report["message"]) == ("paused", keep, None)

    resume = {"generation": 2, "access_token": "token2", "memory": False}
    report = await agent.ok("POST", f"{path}/resume", resume)
    assert (report["state"], report["saved_memory"], report["generation"]) == ("running", None, 2)
    answer = await agent.run(id, "token2", "sha256sum -c ~/sum; hostname; echo $GREETING; ls /data; whoami")
    assert answer.split() == ["/home/user/file:", "OK", id, "hello", "opt", "user"]
    assert await agent.run(id, "token2", BOOT_ID) != before
    assert "No such file" in await agent.run(id, "token2", "cat /dev/shm/file")
    assert await agent.run(id, "token2", "pgrep -f 'tmp.[c]ount' || echo gone") == "gone\n"

    # What was being appended while the disk alone was kept may end in zeros, as after a power cut.
    await agent.run(id, "token2", "rm /tmp/count; " + COUNTER)
    reached = await count(agent, id, "token2")
    await agent.ok("POST", f"{path}/pause", {"generation": 2})
    await agent.ok("POST", f"{path}/resume", {"generation": 3, "access_token": "token3"})
    assert await count(agent, id, "token3") >= reached


async def test_a_snapshot_gives_sandboxes_that_go_their_own_ways(agent: AgentProcess) -> None:
    id, one, two, third = (new_sandbox_id() for _ in range(4))
    snapshot, later = new_snapshot_id(), new_snapshot_id()
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start(envs={"A": "1", "B": "1"}))
    await agent.run(id, "token1", "echo shared > ~/file; " + COUNTER)
    before = await count(agent, id, "token1")
    body = {"generation": 1, "id": snapshot}
    report = await agent.ok("POST", f"/v1/sandboxes/{id}/snapshot", body)
    assert (report["id"], report["memory"]) == (snapshot, True)
    assert 1 << 20 < report["size_bytes"] < 200 << 20
    await count(agent, id, "token1", beyond=before)
    await agent.ok("DELETE", f"/v1/sandboxes/{id}?generation=1")
    assert await agent.ok("POST", f"/v1/sandboxes/{id}/snapshot", body) == report

    await agent.end()
    await agent.start()
    for name in (one, two):
        await agent.ok("PUT", f"/v1/sandboxes/{name}", start(name, snapshot=snapshot, envs={"B": "2"}))
    await agent.ok("DELETE", f"/v1/snapshots/{snapshot}")
    assert (await agent.call("PUT", f"/v1/sandboxes/{third}", start(snapshot=snapshot)))[0] == 404
    for name in (one, two):
        assert await count(agent, name, name) >= before
        await agent.run(name, name, "echo mine >> ~/file")
        assert (await agent.run(name, name, "hostname; cat ~/file; echo $A $B")).split() == [
            name, "shared", "mine", "1", "2",
        ]  # fmt: skip
        for old in ("token1", "wrong"):
            with pytest.raises(AssertionError, match="unauthorized"):
                await agent.run(name, old, "true")

    # All of the deleted snapshot's memory can still be read, and saved once more.
    await agent.ok("POST", f"/v1/sandboxes/{one}/snapshot", {"generation": 1, "id": later})
    await agent.ok("POST", f"/v1/sandboxes/{two}/pause", {"generation": 1})
    await agent.ok("POST", f"/v1/sandboxes/{two}/resume", {"generation": 2, "access_token": "token2"})
    await agent.ok("PUT", f"/v1/sandboxes/{third}", start(snapshot=later))
    for name, token in ((two, "token2"), (third, "token1")):
        assert await count(agent, name, token) >= before
        assert await agent.run(name, token, "cat ~/file; python3 -c 'print(6 * 7)'") == "shared\nmine\n42\n"


async def test_a_snapshot_of_the_disk_alone_boots(agent: AgentProcess) -> None:
    id, one = new_sandbox_id(), new_sandbox_id()
    snapshot = new_snapshot_id()
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start(envs={"A": "1"}))
    await agent.run(id, "token1", "seq 100000 > ~/file; " + COUNTER)
    before = await count(agent, id, "token1")
    body = {"generation": 1, "id": snapshot, "memory": False}
    report = await agent.ok("POST", f"/v1/sandboxes/{id}/snapshot", body)
    assert (report["memory"], report["message"]) == (False, None)
    await count(agent, id, "token1", beyond=before)
    await agent.ok("PUT", f"/v1/sandboxes/{one}", start("mine", snapshot=snapshot, memory_mb=320))
    script = "seq 100000 | cmp - ~/file && echo same; echo $A; pgrep -f 'tmp.[c]ount' || echo gone; hostname"
    assert (await agent.run(one, "mine", script)).split() == ["same", "1", "gone", one]


@pytest.mark.parametrize("milliseconds", [5, 30, 100, 250])
async def test_an_agent_killed_during_a_snapshot_leaves_the_source_running_and_no_half(
    agent: AgentProcess, milliseconds: int
) -> None:
    id, snapshot = new_sandbox_id(), new_snapshot_id()
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start())
    await agent.run(id, "token1", COUNTER)
    before = await count(agent, id, "token1")
    body = {"generation": 1, "id": snapshot}
    saving = asyncio.create_task(agent.call("POST", f"/v1/sandboxes/{id}/snapshot", body))
    await asyncio.sleep(milliseconds / 1000)  # where it hits is left to chance on purpose
    await agent.end(signal.SIGKILL)
    await asyncio.wait([saving])
    saving.exception()
    await agent.start()

    assert (await agent.ok("GET", f"/v1/sandboxes/{id}"))["state"] == "running"
    await count(agent, id, "token1", beyond=before)
    assert all((path / "manifest.json").is_file() for path in agent.paths.named.iterdir())
    await agent.ok("POST", f"/v1/sandboxes/{id}/snapshot", body)
    one = new_sandbox_id()
    await agent.ok("PUT", f"/v1/sandboxes/{one}", start("mine", snapshot=snapshot))
    assert await count(agent, one, "mine") >= before


async def test_a_guest_that_does_not_answer_is_paused_all_the_same(agent: AgentProcess) -> None:
    id = new_sandbox_id()
    path = f"/v1/sandboxes/{id}"
    await agent.ok("PUT", path, start())
    await agent.run(id, "token1", "echo synced > ~/file; sync")
    await agent.run(id, "token1", "sudo sh -c '(sleep 0.3; ip link set eth0 down) > /dev/null 2>&1 &'")
    with contextlib.suppress(TimeoutError, WrennError, OSError):
        while True:
            async with asyncio.timeout(3):
                await agent.run(id, "token1", "sleep 0.1")
    report = await agent.ok("POST", f"{path}/pause", {"generation": 1, "memory": False})
    assert report["state"] == "paused"
    assert "may be lost" in report["message"]
    await agent.ok("POST", f"{path}/resume", {"generation": 2, "access_token": "token2"})
    assert await agent.run(id, "token2", "cat ~/file") == "synced\n"
