"""A host with a sandbox that runs and one that is paused, while something happens to others; and what is looked at then."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from faults.agent_operations import FRESH_DISK_MB, Scene, token
from hostagent.process import AgentProcess, count, start

from wrenn_server.hostagent.sandbox.uploads import STORED
from wrenn_server.linux.cgroup import Cgroups
from wrenn_server.model import ids

CONVERGES = 20.0
"""Seconds; on a machine that emulates its guests on few processors."""


@dataclass
class Installation:
    """One data directory for all rows, with a sandbox that runs and one that is paused through all of them."""

    agent: AgentProcess
    running: Scene
    paused: Scene

    @classmethod
    def at(cls, agent: AgentProcess) -> "Installation":
        return cls(agent, Scene(agent), Scene(agent))

    async def begin(self) -> None:
        await self.agent.start()
        await self.running.runs()
        await self.paused.rests()
        async with asyncio.timeout(CONVERGES):
            while machines(self.agent) != {self.running.id}:  # noqa: ASYNC110 - a pause is told before its VM ends
                await asyncio.sleep(0.05)

    async def bystanders(self) -> None:
        """Nothing has happened to them."""
        running = self.running
        running.count = await count(self.agent, running.id, token(1), beyond=running.count)
        assert (await self.agent.ok("GET", self.paused.path))["state"] == "paused"

    async def end(self) -> None:
        """Both are whole; then nothing is left."""
        try:
            await self.bystanders()
            await verified(self.paused, "paused")
        finally:
            if self.agent.process is None:
                await self.agent.start()
            await clear(self.agent, set())
            await self.agent.end()
        assert self.agent.remains() == []

    async def tidy(self) -> None:
        """After a row that failed, the next one finds what it needs."""
        agent = self.agent
        if agent.process is not None and agent.process.poll() is not None:
            agent.process = None
        if agent.process is None:
            await agent.start()
        await self.clear()

    async def clear(self) -> None:
        await clear(self.agent, {self.running.id, self.paused.id})


async def state(agent: AgentProcess, id: str, expected: str) -> dict[str, Any] | None:
    """Its report, when it has come to that state; None: this host has none, as expected."""
    seen = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CONVERGES):
            while True:
                status, report = await agent.call("GET", f"/v1/sandboxes/{id}")
                seen = "gone" if status == 404 else report["state"]
                if seen == expected:
                    return report if status == 200 else None
                await asyncio.sleep(0.05)
    raise AssertionError(f"{id} is {seen}, not {expected}")


async def verified(scene: Scene, expected: str) -> None:
    """The sandbox is in that state, and not older than what it did last. One that is paused resumes."""
    agent = scene.agent
    report = await state(agent, scene.id, expected)
    if expected == "paused" and report is not None:
        scene.generation = report["generation"] + 1
        body = {"generation": scene.generation, "access_token": token(scene.generation)}
        await agent.ok("POST", f"{scene.path}/resume", body)
        report = await agent.ok("GET", scene.path)
    elif expected != "running" or report is None:
        return
    secret = token(report["generation"])
    if scene.count:
        assert await agent.run(scene.id, secret, "cat ~/file") == "precious\n"
    if scene.large:
        assert await agent.run(scene.id, secret, "cd; sha256sum -c sum") == "large: OK\n"
    if scene.count and scene.kept:
        scene.count = await count(agent, scene.id, secret, beyond=scene.count)


async def snapshot_is(scene: Scene, expected: str) -> None:
    """Ready: sandboxes start from it. Gone: nothing is left of it, and its name may be used again."""
    agent, directory = scene.agent, scene.agent.paths.named_snapshot(scene.snapshot)
    assert directory.exists() == (expected == "ready")
    if expected == "ready":
        body = start(token(1), snapshot=scene.snapshot)
        await agent.ok("PUT", f"/v1/sandboxes/{scene.other}", body)
        assert await agent.run(scene.other, token(1), "cat ~/file") == "precious\n"
    else:
        await agent.ok("POST", f"{scene.path}/snapshot", {"generation": 1, "id": scene.snapshot})


async def clear(agent: AgentProcess, kept: set[str]) -> None:
    """Every sandbox can be killed, and every snapshot deleted, whatever happened to it."""
    for report in (await agent.ok("GET", "/v1/sandboxes"))["sandboxes"]:
        if report["id"] not in kept:
            await agent.ok("DELETE", f"/v1/sandboxes/{report['id']}?generation={report['generation']}")
    for snapshot in agent.paths.named.iterdir():
        await agent.ok("DELETE", f"/v1/snapshots/{snapshot.name}")
    for template in agent.paths.templates.glob(f"*-{FRESH_DISK_MB}-*"):  # made anew in each row
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(template.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            template.rmdir()


async def is_left(agent: AgentProcess, before: set[str]) -> None:
    """Nothing more, and nothing less, than there was."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CONVERGES):
            while inventory(agent) != before:  # noqa: ASYNC110 - what was told is tidied up after that
                await asyncio.sleep(0.05)
    assert inventory(agent) == before


def machines(agent: AgentProcess) -> set[str]:
    """Names of all VMs."""
    return set(Cgroups.detect().children(f"wrenn-{agent.paths.tag}"))


def inventory(agent: AgentProcess) -> set[str]:
    """Everything on the host that a sandbox, a snapshot or a template leaves there."""
    paths = agent.paths
    found = {f"cgroup {name}" for name in machines(agent)}
    found |= {f"place {path.name}" for path in paths.run.iterdir() if ids.parse_sandbox_id(path.name)}
    for directory in (paths.sandboxes, paths.snapshots, paths.named, paths.templates):
        found |= {str(path.relative_to(paths.data)) for path in directory.rglob("*")}
    found -= {path for path in found if path.endswith(f"/{STORED}")}  # told for those beside it, too
    blanks = {str(path.relative_to(paths.data)) for path in paths.blanks.rglob("*")}
    return found - blanks  # empty disks are kept for the next template of that size


async def dropped(scene: Scene) -> None:
    """The store has nothing of a sandbox that was killed."""
    manifests = scene.agent.objects / "sandboxes" / scene.id
    async with asyncio.timeout(CONVERGES):
        while list(manifests.glob("*.json")):  # noqa: ASYNC110 - files, which tell nobody
            await asyncio.sleep(0.05)
