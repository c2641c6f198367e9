"""Many sandboxes made and killed: everything that can be counted returns to what it was."""

import asyncio
import os
import threading
from pathlib import Path

from support.simulated import World, eventually
from wrenn_server.hostagent.simulated import SimulatedAgent

CYCLES = int(os.environ.get("WRENN_TEST_CYCLES", "200"))
"""2,000 are made by hand."""
AT_ONCE = 16


EXECUTOR = min(32, (os.cpu_count() or 1) + 4)
"""Threads that asyncio makes as it needs them, and keeps."""


def fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def cycle(world: World, host: SimulatedAgent, turns: asyncio.Semaphore) -> None:
    async with turns:
        await host.beat()  # many of these take longer than a host may be silent
        made = await world.new_sandbox(timeout_sec=600)
        assert (await world.api.delete(f"/v1/sandboxes/{made['id']}")).status_code == 204


async def test_nothing_is_left_of_them(world: World, host: SimulatedAgent) -> None:
    turns = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(
        *(cycle(world, host, turns) for _ in range(2 * AT_ONCE))
    )  # pools and caches are full now
    before, threads = fds(), threading.active_count()
    names = {task.get_name().rstrip("0123456789-") for task in asyncio.all_tasks()}
    await asyncio.gather(*(cycle(world, host, turns) for _ in range(CYCLES)))

    assert host.host.held == {}
    states = await world.cp.db.fetch("SELECT state, count(*) FROM sandboxes GROUP BY state")
    assert {row["state"]: row["count"] for row in states} == {"killed": CYCLES + 2 * AT_ONCE}
    [reserved] = await world.cp.db.fetch(
        "SELECT cpus_reserved, memory_mb_reserved, disk_mb_reserved, sandboxes FROM hosts"
    )
    assert tuple(reserved) == (0, 0, 0, 0)
    for table in ("snapshots", "template_tags", "idempotency_keys"):
        assert [row[0] for row in await world.cp.db.fetch(f"SELECT count(*) FROM {table}")] == [0]  # noqa: S608 - names of ours
    await eventually(lambda: returned(before))
    assert threading.active_count() <= threads + EXECUTOR
    assert {task.get_name().rstrip("0123456789-") for task in asyncio.all_tasks()} <= names


async def returned(before: int) -> bool:
    """Idle connections are closed after some seconds."""
    return fds() <= before
