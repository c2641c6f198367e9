"""Sandboxes that move to another host: three programs, two hosts, real virtual machines, one object store."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hostagent.process import AgentProcess, large

from support.postgres import database_url, empty_database, postgres
from support.simulated import World, control_plane, eventually
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.reconcile import hosts as reconcile_hosts
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.hostagent import leftovers
from wrenn_server.wire import agent as wire

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]
__all__ = ["database_url", "empty_database", "postgres"]

RUNNING = PAUSED = int(os.environ.get("WRENN_TEST_MOVES", "2"))
COUNTER = "(i=0; while :; do i=$((i+1)); echo $i >> /tmp/count; sleep 1; done) >/dev/null 2>&1 & echo"
SHAPE = {"memory_mb": 256, "disk_mb": 1024}
SERVE = "cd ~ && exec python3 -m http.server 8000"
HOLD = "exec 9>~/held; rm ~/held; echo kept >&9; while :; do read line <~/pipe; cat /proc/self/fd/9; done"
"""Keeps a file that has no name, and tells what is in it."""


@pytest.fixture
async def world(database_url: str) -> AsyncGenerator[World]:
    async with control_plane(database_url, proxy_domain="sandboxes.test") as running:
        yield running


@contextlib.asynccontextmanager
async def host(world: World, images: Path, directory: Path, number: int) -> AsyncGenerator[AgentProcess]:
    directory.mkdir()
    agent = AgentProcess(directory, images)
    created = await bootstrap.create_host(world.cp.db)
    agent.settings = {
        "AGENT_REGISTRATION_TOKEN": created.registration_token,
        "AGENT_CP_URL": world.url,
        "AGENT_ADDRESS": agent.address,
        "AGENT_NETWORK": f"10.21{number}.16.0/20",
        "AGENT_UID_BASE": str(58_000 + 100 * number),
        "AGENT_OBJECT_STORE": str(directory.parent / "objects"),
    }
    await agent.start()
    try:
        yield agent
    finally:
        if agent.process is not None:
            await agent.end()
        await leftovers.remove_all(agent.paths.data, agent.paths.tag)  # a test that was broken off leaves VMs


async def run(world: World, sandbox_id: str, script: str, **more: Any) -> str:
    body = {"cmd": "/bin/sh", "args": ["-c", script], **more}
    answer = await world.api.post(f"/v1/sandboxes/{sandbox_id}/exec", body)
    assert answer.status_code in (200, 202), answer.text
    return answer.json().get("stdout", "")


async def made(world: World) -> str:
    """With programs, files on its disk and in its memory, and a web server."""
    sandbox_id = (await world.new_sandbox(**SHAPE))["id"]
    await run(world, sandbox_id, f"echo of {sandbox_id} > ~/index.html; {COUNTER}")
    await run(world, sandbox_id, large(20))
    await run(world, sandbox_id, f"mkfifo ~/pipe; ({HOLD}) >/tmp/told 2>&1 & echo")
    await run(world, sandbox_id, SERVE, background=True)
    await eventually(lambda: is_up(world, sandbox_id), within=60)
    return sandbox_id


async def count(world: World, sandbox_id: str) -> int:
    return int(await run(world, sandbox_id, "tail -n 1 /tmp/count"))


async def get(world: World, sandbox_id: str) -> str:
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False, timeout=30) as client:
        answer = await client.get("/index.html", headers={"Host": f"8000-{sandbox_id}.sandboxes.test"})
    return answer.text.strip() if answer.status_code == 200 else f"{answer.status_code} {answer.text}"


async def is_up(world: World, sandbox_id: str) -> bool:
    return await get(world, sandbox_id) == f"of {sandbox_id}"


async def online(world: World, host_id: str) -> bool:
    return (await world.user.get(f"/v1/hosts/{host_id}")).json()["status"] == "online"


async def empty(world: World, host_id: str, agent: AgentProcess) -> bool:
    left = (await world.user.get(f"/v1/hosts/{host_id}")).json()["sandboxes"]
    return left == 0 and not list(agent.paths.sandboxes.glob("sb*"))


async def check(world: World, sandbox_id: str, before: int) -> None:
    """All of what `made` left there goes on."""
    assert await world.state(sandbox_id) == "running"
    assert await get(world, sandbox_id) == f"of {sandbox_id}", "the same URL, the same server"
    after = await count(world, sandbox_id)
    assert after >= before, "the same program"
    more = f"until [ $(tail -n 1 /tmp/count) -gt {after} ]; do sleep 0.1; done; echo on"
    assert await run(world, sandbox_id, more) == "on\n"
    told = "echo > ~/pipe; until grep kept /tmp/told; do sleep 0.1; done"
    assert await run(world, sandbox_id, told) == "kept\n", "a file without a name"
    assert await run(world, sandbox_id, "cd; sha256sum -c sum") == "large: OK\n"


async def is_stored(world: World, sandbox_id: str) -> bool:
    row = await db_sandboxes.get(world.cp.db, sandbox_id)
    return row is not None and row.is_stored


async def have_arrived(agent: AgentProcess, disks: int) -> bool:
    """After their sandboxes ran."""
    return agent.log.read_text().count("a disk is whole") == disks


async def test_a_drained_host_loses_nothing(world: World, guest_images: Path, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(host(world, guest_images, tmp_path / "1", 1))
        [row] = await db_hosts.listing(world.cp.db)
        host_id, where = row.id, world.cp.host(row.id, row.address)
        await eventually(lambda: online(world, host_id))
        # Booted here alone: the other host has it with the first sandbox that it fetches.
        await world.cp.hosts.prepare(where, "minimal", wire.Prepare(vcpus=1, **SHAPE))
        ids = [await made(world) for _ in range(RUNNING + PAUSED)]
        before = {sandbox_id: await count(world, sandbox_id) for sandbox_id in ids}
        for sandbox_id in ids[RUNNING:]:
            assert (await world.api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200

        second = await stack.enter_async_context(host(world, guest_images, tmp_path / "2", 2))
        assert (await world.user.post(f"/v1/hosts/{host_id}/drain")).status_code == 200
        await eventually(lambda: empty(world, host_id, first), within=240)
        assert (await world.user.delete(f"/v1/hosts/{host_id}")).status_code == 204

        assert len(list(second.paths.sandboxes.glob("sb*"))) == len(ids)
        for sandbox_id in ids[RUNNING:]:
            assert await world.state(sandbox_id) == "paused"
            answer = await world.api.post(f"/v1/sandboxes/{sandbox_id}/resume")
            assert answer.status_code == 200, answer.text
        for sandbox_id in ids:
            await check(world, sandbox_id, before[sandbox_id])
        await asyncio.gather(*(world.api.delete(f"/v1/sandboxes/{sandbox_id}") for sandbox_id in ids))
        for agent in (first, second):
            await agent.end()
            assert agent.remains() == []


async def test_what_rests_on_a_lost_host_goes_on_elsewhere(
    world: World, guest_images: Path, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(host(world, guest_images, tmp_path / "1", 1))
        [row] = await db_hosts.listing(world.cp.db)
        await eventually(lambda: online(world, row.id))
        ids = [await made(world) for _ in range(2)]
        before = {sandbox_id: await count(world, sandbox_id) for sandbox_id in ids}
        for sandbox_id in ids:
            assert (await world.api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
            await eventually(lambda sandbox_id=sandbox_id: is_stored(world, sandbox_id), within=60)
        await first.end(signal.SIGKILL)
        shutil.rmtree(first.paths.snapshots)
        await world.cp.db.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '1 hour'")
        await reconcile_hosts.converge(world.cp)

        second = await stack.enter_async_context(host(world, guest_images, tmp_path / "2", 2))
        [other] = [one.id for one in await db_hosts.listing(world.cp.db) if one.id != row.id]
        await eventually(lambda: online(world, other))
        for sandbox_id in ids:
            assert await world.state(sandbox_id) == "paused"
            answer = await world.api.post(f"/v1/sandboxes/{sandbox_id}/resume")
            assert answer.status_code == 200, answer.text
            await check(world, sandbox_id, before[sandbox_id])
        await eventually(lambda: have_arrived(second, len(ids)))
        await asyncio.gather(*(world.api.delete(f"/v1/sandboxes/{sandbox_id}") for sandbox_id in ids))
        await second.end()
        assert second.remains() == []
