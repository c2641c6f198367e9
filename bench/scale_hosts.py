"""What 1,000 agents tell the control plane: heartbeats and samples, with the content and in the rhythm of real ones."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2
import msgspec

from bench.scale_fill import IMAGE
from bench.scale_plans import SPECS
from wrenn_server.controlplane import keys
from wrenn_server.controlplane.keys import HostClaims
from wrenn_server.db.pool import Database
from wrenn_server.hostagent import heartbeat, sampler
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent

Note = Callable[[str, float], None]


@dataclass(slots=True)
class _Host:
    id: str
    token: str
    reports: list[agent.SandboxReport] = field(default_factory=list[agent.SandboxReport])
    sequence: int = 0
    sampled: int = 0

    @property
    def measured(self) -> list[agent.SandboxReport]:
        return [report for report in self.reports if report.state is State.RUNNING]


class Hosts:
    """All hosts of a database, as they are in it."""

    def __init__(self, http: httpx2.AsyncClient, address: str, hosts: list[_Host]) -> None:
        self._http = http
        self._address = address
        self._hosts = hosts
        self._started_at = time.time()
        self.count = len(hosts)
        self.beats_due = self.count / heartbeat.INTERVAL
        """A second, of all that keep their rhythm."""
        self.samples_due = sum(len(host.measured) for host in hosts) / sampler.INTERVAL
        """Likewise."""
        self.taken = 0
        """Samples that the control plane has taken."""

    @classmethod
    async def of(cls, db: Database, http: httpx2.AsyncClient, address: str) -> "Hosts":
        own = await keys.load(db)
        found = {
            record["id"]: _Host(record["id"], own.host_token(HostClaims(record["id"], record["token_epoch"])))
            for record in await db.fetch("SELECT id, token_epoch FROM hosts ORDER BY id")
        }
        alive = await db.fetch(
            """SELECT id, host_id, generation, state, vcpus, memory_mb, disk_mb, saved_memory, saved_generation,
                      extract(epoch FROM expires_at)::float8 AS expires_at
                 FROM sandboxes WHERE state IN ('running', 'paused') ORDER BY id"""
        )
        for record in alive:
            values = dict(record.items())
            host_id = values.pop("host_id")
            report = msgspec.convert(values | {"envd_version": "0.6.13"}, agent.SandboxReport)
            found[host_id].reports.append(report)
        return cls(http, address, list(found.values()))

    async def live(self, number: int, phase: float, note: Note, name: str, *, usage: bool) -> None:
        """For ever. :param phase: 0 to 1: where in its rhythm it begins"""
        loop = asyncio.get_running_loop()
        beats_at = loop.time() + phase * heartbeat.INTERVAL
        sends_at = loop.time() + phase * heartbeat.INTERVAL % sampler.SEND_INTERVAL
        while True:
            due = min(beats_at, sends_at) if usage else beats_at
            await asyncio.sleep(due - loop.time())
            began = time.perf_counter()
            if due == beats_at:
                beats_at += heartbeat.INTERVAL
                await self.beat(number)
                note(f"beat {name}", (time.perf_counter() - began) * 1000)
            else:
                sends_at = max(sends_at + sampler.SEND_INTERVAL, loop.time())
                await self.send(number)
                note(f"batch {name}", (time.perf_counter() - began) * 1000)

    async def beat(self, number: int) -> None:
        host = self._hosts[number]
        host.sequence += 1
        beat = agent.Heartbeat(
            specs=SPECS, address=self._address, sequence=host.sequence, started_at=self._started_at,
            sandboxes=host.reports, templates=[IMAGE], installation=host.id,
        )  # fmt: skip
        await self._post(host, "heartbeat", beat)

    async def send(self, number: int) -> None:
        """What was sampled of each that runs since the last time, in the order of an agent's."""
        host, now = self._hosts[number], time.time()
        ages = [n * sampler.INTERVAL for n in range(round(sampler.SEND_INTERVAL / sampler.INTERVAL))]
        samples = [
            agent.Sample(
                sandbox_id=one.id, at=now - age, cpu_count=one.vcpus, cpu_used_pct=3.5, mem_used=200 << 20,
                mem_total=one.memory_mb << 20, mem_cache=50 << 20, disk_used=300 << 20, disk_total=one.disk_mb << 20,
                seconds=sampler.INTERVAL, egress_bytes=1234,
            )
            for age in reversed(ages)
            for one in host.measured
        ]  # fmt: skip
        if samples:
            batch = agent.Samples(samples=samples, epoch=self._started_at, first=host.sampled + 1)
            host.sampled += len(samples)
            await self._post(host, "samples", batch)
            self.taken += len(samples)

    async def _post(self, host: _Host, what: str, body: msgspec.Struct) -> None:
        response = await self._http.post(
            f"/v1/hosts/{host.id}/{what}", content=msgspec.json.encode(body),
            headers={"X-Host-Token": host.token, "Content-Type": "application/json"},
        )  # fmt: skip
        if response.status_code != 204:
            raise RuntimeError(f"{what} of {host.id}: {response.status_code} {response.text}")
