"""The whole host agent with real virtual machines: what the control plane relies on."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hostagent.control_plane import FakeControlPlane
from hostagent.process import COUNTER, AgentProcess, count, serving, start

from wrenn_server.model.errors import WrennError
from wrenn_server.model.ids import new_sandbox_id
from wrenn_server.wire import http1

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def installation(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> AgentProcess:
    """One data directory for all tests, so that the template is booted once."""
    return AgentProcess(tmp_path_factory.mktemp("agent"), guest_images)


@pytest.fixture
async def agent(installation: AgentProcess) -> AsyncGenerator[AgentProcess]:
    async with serving(installation):
        yield installation
    assert installation.remains() == []


async def left(agent: AgentProcess, path: str, *states: str) -> dict[str, Any]:
    """The report once it is in none of these states. Agents tell changes to control planes alone, so we ask."""
    async with asyncio.timeout(20):
        while (report := await agent.ok("GET", path))["state"] in {*states, "pausing"}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return report


async def test_the_life_of_a_sandbox(agent: AgentProcess) -> None:
    id, fork = new_sandbox_id(), new_sandbox_id()
    path = f"/v1/sandboxes/{id}"
    report = await agent.ok("PUT", path, start(envs={"GREETING": "hello"}))
    assert report["state"] == "running"
    assert (await agent.run(id, "token1", "hostname; echo $GREETING")).split() == [id, "hello"]
    await agent.run(id, "token1", "echo written > ~/file; " + COUNTER)

    await agent.ok("POST", f"{path}/pause", {"generation": 1})
    assert (await agent.call("POST", f"{path}/timeout", {"generation": 1, "ttl_sec": 1}))[0] == 409
    await agent.ok("POST", f"{path}/resume", {"generation": 2, "access_token": "token2"})
    before = await count(agent, id, "token2")
    assert await agent.run(id, "token2", "cat ~/file; echo $GREETING") == "written\nhello\n"

    targets = [{"id": fork, "generation": 1, "access_token": "forked"}]
    [result] = (await agent.ok("POST", f"{path}/fork", {"generation": 2, "targets": targets}))["results"]
    assert result["report"]["state"] == "running", result
    for name, token in ((id, "token2"), (fork, "forked")):
        assert await agent.run(name, token, "hostname; cat ~/file") == f"{name}\nwritten\n"
        assert await count(agent, name, token) >= before
    identities = [
        await agent.run(
            name,
            token,
            "cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An",
        )
        for name, token in ((id, "token2"), (fork, "forked"))
    ]
    assert not set(identities[0].splitlines()) & set(identities[1].splitlines())
    await agent.ok("DELETE", f"{path}?generation=2")
    assert await agent.run(fork, "forked", "echo alive") == "alive\n"


async def test_sandboxes_outlive_a_killed_agent(agent: AgentProcess) -> None:
    id, paused = new_sandbox_id(), new_sandbox_id()
    for name in (id, paused):
        await agent.ok("PUT", f"/v1/sandboxes/{name}", start())
        await agent.run(name, "token1", COUNTER)
    await agent.ok("POST", f"/v1/sandboxes/{paused}/pause", {"generation": 1})
    before = await count(agent, id, "token1")

    await agent.end(signal.SIGKILL)
    await agent.start()
    states = {
        report["id"]: report["state"] for report in (await agent.ok("GET", "/v1/sandboxes"))["sandboxes"]
    }
    assert states == {id: "running", paused: "paused"}
    await count(agent, id, "token1", beyond=before)

    await agent.ok("POST", f"/v1/sandboxes/{paused}/resume", {"generation": 2, "access_token": "token2"})
    await agent.ok("POST", f"/v1/sandboxes/{id}/pause", {"generation": 1})
    await agent.ok("POST", f"/v1/sandboxes/{id}/resume", {"generation": 2, "access_token": "token2"})
    await count(agent, id, "token2", beyond=before)
    await count(agent, paused, "token2")


@pytest.mark.parametrize("milliseconds", [0, 20, 60, 120, 250])
async def test_an_agent_killed_during_a_pause_loses_nothing(agent: AgentProcess, milliseconds: int) -> None:
    id = new_sandbox_id()
    path = f"/v1/sandboxes/{id}"
    await agent.ok("PUT", path, start())
    await agent.run(id, "token1", "echo precious > ~/file; " + COUNTER)
    before = await count(agent, id, "token1")
    pausing = asyncio.create_task(agent.call("POST", f"{path}/pause", {"generation": 1}))
    await asyncio.sleep(milliseconds / 1000)  # where it hits is left to chance on purpose
    await agent.end(signal.SIGKILL)
    await asyncio.wait([pausing])
    pausing.exception()
    await agent.start()

    report = await agent.ok("GET", path)
    assert report["state"] in {"running", "paused"}
    token = "token1"
    if report["state"] == "paused":
        await agent.ok("POST", f"{path}/resume", {"generation": 2, "access_token": "token2"})
        token = "token2"
    assert await agent.run(id, token, "cat ~/file") == "precious\n"
    assert await count(agent, id, token) >= before


@pytest.mark.parametrize("milliseconds", [10, 100, 300])
async def test_an_agent_killed_during_a_start_or_resume_leaves_no_vm_behind(
    agent: AgentProcess, milliseconds: int
) -> None:
    id, paused = new_sandbox_id(), new_sandbox_id()
    await agent.ok("PUT", f"/v1/sandboxes/{paused}", start())
    await agent.run(paused, "token1", "echo precious > ~/file")
    await agent.ok("POST", f"/v1/sandboxes/{paused}/pause", {"generation": 1})
    going = [
        asyncio.create_task(agent.call("PUT", f"/v1/sandboxes/{id}", start())),
        asyncio.create_task(
            agent.call("POST", f"/v1/sandboxes/{paused}/resume", {"generation": 2, "access_token": "token2"})
        ),
    ]
    await asyncio.sleep(milliseconds / 1000)  # where it hits is left to chance on purpose
    await agent.end(signal.SIGKILL)
    await asyncio.wait(going)
    for task in going:
        task.exception()
    await agent.start()

    found = {report["id"]: report for report in (await agent.ok("GET", "/v1/sandboxes"))["sandboxes"]}
    assert found.get(id, {"state": "failed"})["state"] in {"failed", "running"}
    token = "token2"
    if found[paused]["state"] == "paused":
        await agent.ok("POST", f"/v1/sandboxes/{paused}/resume", {"generation": 3, "access_token": "token3"})
        token = "token3"
    assert await agent.run(paused, token, "cat ~/file") == "precious\n"


async def test_time_ends_without_a_control_plane(agent: AgentProcess) -> None:
    id = new_sandbox_id()
    path = f"/v1/sandboxes/{id}"
    await agent.ok("PUT", path, start(ttl_sec=3.0, on_timeout="pause"))
    await agent.end()
    await asyncio.sleep(3)  # the host's clock decides, and it cannot be moved
    await agent.start()
    assert (await left(agent, path, "running"))["state"] == "paused"


async def test_a_guest_that_shuts_down_is_told(agent: AgentProcess) -> None:
    id = new_sandbox_id()
    path = f"/v1/sandboxes/{id}"
    await agent.ok("PUT", path, start())
    await agent.run(id, "token1", "sudo sh -c '(sleep 0.2; echo o > /proc/sysrq-trigger) > /dev/null 2>&1 &'")
    report = await left(agent, path, "running")
    assert (report["state"], report["reason"]) == ("failed", "guest_shutdown")


async def test_twenty_at_once(agent: AgentProcess) -> None:
    names = [new_sandbox_id() for _ in range(20)]
    await asyncio.gather(*(agent.ok("PUT", f"/v1/sandboxes/{name}", start()) for name in names))
    answers = await asyncio.gather(*(agent.run(name, "token1", "hostname") for name in names))
    assert [answer.strip() for answer in answers] == names


async def test_ten_forks_at_once(agent: AgentProcess) -> None:
    id, forks = new_sandbox_id(), [new_sandbox_id() for _ in range(10)]
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start(envs={"A": "1"}))
    await agent.run(id, "token1", COUNTER)
    before = await count(agent, id, "token1")
    targets = [{"id": fork, "generation": 1, "access_token": fork} for fork in forks]
    body = {"generation": 1, "targets": targets}
    results = (await agent.ok("POST", f"/v1/sandboxes/{id}/fork", body))["results"]
    assert [result["error_message"] for result in results] == [None] * 10
    answers = await asyncio.gather(*(agent.run(fork, fork, "hostname; echo $A") for fork in forks))
    assert [answer.split() for answer in answers] == [[fork, "1"] for fork in forks]
    assert await count(agent, forks[-1], forks[-1]) >= before


async def test_a_port_of_the_guests_loopback_is_reached(agent: AgentProcess) -> None:
    id = new_sandbox_id()
    await agent.ok("PUT", f"/v1/sandboxes/{id}", start())
    serve = "cd /etc && python3 -m http.server {port} --bind {address} > /dev/null 2>&1 &"
    for port, address in ((8001, "127.0.0.1"), (8002, "0.0.0.0")):
        await agent.run(id, "token1", serve.format(port=port, address=address))
        await agent.run(id, "token1", f"until curl -s localhost:{port} > /dev/null; do sleep 0.1; done")
        tunnel = await http1.connect_tunnel(agent.address, f"{id}:{port}", headers=agent.headers)
        async with http1.Connection(tunnel, timeouts=http1.Timeouts(head=30)) as connection:
            response = await connection.request("GET", "/hostname")
            assert (response.status, await response.read(limit=100)) == (200, f"{id}\n".encode())
    with pytest.raises(WrennError) as refusal:
        await http1.connect_tunnel(agent.address, f"{id}:8003", headers=agent.headers, timeout=20)
    assert refusal.value.code == "port_not_open"


@pytest.mark.parametrize("ttl", [0.0, 2.5])
async def test_time_ends_to_the_half_second(agent: AgentProcess, ttl: float) -> None:
    id, paused = new_sandbox_id(), new_sandbox_id()
    for name, end in ((id, "kill"), (paused, "pause")):
        await agent.ok("PUT", f"/v1/sandboxes/{name}", start())
        body = {"generation": 1, "ttl_sec": ttl, "on_timeout": end}
        expires = (await agent.ok("POST", f"/v1/sandboxes/{name}/timeout", body))["expires_at"]
        async with asyncio.timeout(20):
            while (await agent.ok("GET", f"/v1/sandboxes/{name}"))["state"] == "running":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert -0.01 < time.time() - expires < 0.5
        assert (await left(agent, f"/v1/sandboxes/{name}", "killing"))["state"] == (
            "killed" if end == "kill" else "paused"
        )


async def test_the_control_plane_is_told_what_sandboxes_use(installation: AgentProcess) -> None:
    id, cp = new_sandbox_id(), FakeControlPlane()
    async with cp.serving():
        installation.settings = {"AGENT_CP_URL": cp.url}
        try:
            async with serving(installation) as agent, asyncio.timeout(60):
                await agent.ok("PUT", f"/v1/sandboxes/{id}", start())
                burn = "timeout 20 sh -c 'while :; do :; done' > /dev/null 2>&1 &"
                await agent.run(id, "token1", burn)
                samples: list[dict[str, Any]] = []
                while len(samples) < 3:
                    path, _, body = await cp.calls.get()
                    samples += body["samples"] if path.endswith("/samples") else []
        finally:
            installation.settings = {}
    assert {sample["sandbox_id"] for sample in samples} == {id}
    assert all(4 < later["at"] - sample["at"] < 8 for sample, later in pairwise(samples))
    assert samples[-1]["cpu_used_pct"] > 50
    assert 0 < samples[0]["mem_used"] < samples[0]["mem_total"] <= 256 << 20
    assert 0 < samples[0]["disk_used"] < samples[0]["disk_total"] <= 1024 << 20
