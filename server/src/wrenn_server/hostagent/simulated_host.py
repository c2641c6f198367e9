"""The sandboxes of a host agent without VMs: the same commands and the same rules over a dictionary."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import cast

import msgspec
from msgspec.structs import replace

from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.sandbox import checks
from wrenn_server.hostagent.sandbox.lifecycle import Command, Done, Refuse, decide, expiry
from wrenn_server.hostagent.sandbox.registry import Reach
from wrenn_server.hostagent.simulated_held import (
    Held,
    HeldSnapshot,
    SimulatedStore,
    introduce,
    start_envd,
    stop,
)
from wrenn_server.model.errors import Conflict, NotFound, Unavailable, WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd

SAVED_DISK = 3 << 20
"""Bytes that a made-up snapshot takes beside its memory."""

Hook = Callable[[Command, str], Awaitable[None]]
"""Called with a command and a sandbox's id; may wait, or raise to have the command fail there."""


async def _nothing(command: Command, sandbox_id: str) -> None:
    pass


class SimulatedHost:
    """The place of `Registry` in the agent, with the same methods and the same rules."""

    def __init__(self, envd_binary: Path | None = None, store: SimulatedStore | None = None) -> None:
        self.objects = store
        """None: there is no object store."""
        self.machine = "simulated"
        self.held: dict[str, Held] = {}
        self.snapshots: dict[str, HeldSnapshot] = {}
        self.calls: list[tuple[Command, str, int]] = []
        """Every command that came, with its generation, carried out or not."""
        self.bodies: list[msgspec.Struct] = []
        """What came with those that have a body, in the order in which they came."""
        self.before: Hook = _nothing
        """Runs before a command is carried out; raising makes it fail with nothing done."""
        self.after: Hook = _nothing
        """Runs when a command has been carried out and before it is answered."""
        self.cut: Callable[[str], None] = lambda sandbox_id: None
        """Resets the connections into a sandbox, as the end of a VM does."""
        self._envd = envd_binary
        self._graves: dict[str, int] = {}
        self._deleted: set[str] = set()
        """Snapshots: a deletion wins over a making that it overtakes."""

    # What the RPC calls

    async def start(self, sandbox_id: str, body: wire.Start) -> wire.SandboxReport:
        self.bodies.append(body)
        envs = body.envs
        if body.snapshot is not None and sandbox_id not in self.held:
            saved = self._saved(body.snapshot)
            source = saved.source
            checks.fits(
                body,
                memory=saved.report.memory,
                vcpus=source.vcpus,
                memory_mb=source.memory_mb,
                disk_mb=source.disk_mb,
            )
            envs = saved.envs | envs
        report = wire.SandboxReport(
            id=sandbox_id,
            generation=body.generation,
            state=State.RUNNING,
            vcpus=body.vcpus,
            memory_mb=body.memory_mb,
            disk_mb=body.disk_mb,
            envd_version="0.6.13",
            expires_at=_expiry(body.ttl_sec),
        )
        new = Held(
            report, body.access_token, body.network, body.on_timeout, body.pause_memory, envs, body.snapshot
        )
        return await self._begin(Command.START, sandbox_id, new)

    async def pause(self, sandbox_id: str, body: wire.Pause) -> wire.SandboxReport:
        self.bodies.append(body)
        held = self._get(sandbox_id)
        if await self._go(Command.PAUSE, sandbox_id, body.generation):
            self._rest(held, memory=body.memory)
        return await self._answer(Command.PAUSE, held)

    async def resume(self, sandbox_id: str, body: wire.Resume) -> wire.SandboxReport:
        self.bodies.append(body)
        if body.stored is not None and sandbox_id not in self.held:
            await self.fetch(sandbox_id, wire.Fetch(generation=body.stored))
        held = self._get(sandbox_id)
        if body.snapshot is not None:
            self._check_earlier(body.snapshot, sandbox_id)
        if await self._go(Command.RESUME, sandbox_id, body.generation):
            boots = not (body.memory and held.report.saved_memory)
            proof, held.access_token = held.access_token, body.access_token
            if self._envd is not None and boots:
                await stop(held)
                held.envd = await start_envd(self._envd)
                await introduce(held, None)
            elif held.envd is not None:
                await introduce(held, proof)
            held.on_timeout, held.pause_memory = body.on_timeout, body.pause_memory
            held.network = body.network or held.network
            held.report = replace(
                held.report,
                state=State.RUNNING,
                reason=None,
                generation=body.generation,
                saved_memory=None,
                saved_generation=None,
                stored=None,
                expires_at=_expiry(body.ttl_sec),
            )
        return await self._answer(Command.RESUME, held)

    async def store(self, sandbox_id: str, body: wire.Store) -> wire.SandboxReport:
        """What the real one does by itself after a while, too."""
        self.bodies.append(body)
        held, store = self._get(sandbox_id), self._store()
        if held.report.saved_generation != body.generation:
            raise Conflict("the sandbox is not paused at that generation", code="invalid_state")
        held.report = replace(held.report, stored=self.machine)
        store.sandboxes[sandbox_id, body.generation] = changed(held)
        return held.report

    async def fetch(self, sandbox_id: str, body: wire.Fetch) -> wire.SandboxReport:
        self.bodies.append(body)
        if sandbox_id not in self.held:
            stored = self._store().sandboxes.get((sandbox_id, body.generation))
            if stored is None:
                raise Unavailable("the object store has no such snapshot", code="snapshot_not_stored")
            self.held[sandbox_id] = changed(stored)
        return self.held[sandbox_id].report

    async def store_snapshot(self, snapshot_id: str) -> None:
        if snapshot_id not in self.snapshots:
            raise checks.no_snapshot()
        self._store().snapshots[snapshot_id] = self.snapshots[snapshot_id]

    def stored_snapshots(self) -> dict[str, str]:
        if self.objects is None:
            return {}
        return {id: self.machine for id in self.snapshots if id in self.objects.snapshots}

    async def fork(self, sandbox_id: str, body: wire.Fork) -> wire.ForkReport:
        self.bodies.append(body)
        source = self._get(sandbox_id)
        await self._go(Command.FORK, sandbox_id, body.generation)
        results: list[wire.ForkResult] = []
        for target in body.targets:
            report = replace(
                source.report, id=target.id, generation=target.generation, expires_at=_expiry(target.ttl_sec)
            )
            new = changed(
                source,
                report=report,
                access_token=target.access_token,
                on_timeout=target.on_timeout,
                pause_memory=target.pause_memory,
                envd=None,
            )
            try:
                made = await self._begin(Command.START, target.id, new)
                results.append(wire.ForkResult(id=target.id, report=made))
            except WrennError as error:
                results.append(
                    wire.ForkResult(id=target.id, error_code=error.code, error_message=error.message)
                )
        await self.after(Command.FORK, sandbox_id)
        return wire.ForkReport(results)

    async def snapshot(self, sandbox_id: str, body: wire.Snapshot) -> wire.SnapshotReport:
        self.bodies.append(body)
        checks.snapshot_id(body.id)
        if body.id not in self.snapshots:
            held = self._get(sandbox_id)
            await self._go(Command.SNAPSHOT, sandbox_id, body.generation)
            if body.id in self._deleted:
                raise checks.no_snapshot()
            size = SAVED_DISK + (held.report.memory_mb << 20 if body.memory else 0)
            report = wire.SnapshotReport(id=body.id, memory=body.memory, size_bytes=size)
            self.snapshots[body.id] = HeldSnapshot(report, held.report, held.envs)
        await self.after(Command.SNAPSHOT, sandbox_id)
        return self.snapshots[body.id].report

    async def delete_snapshot(self, snapshot_id: str) -> None:
        self.snapshots.pop(snapshot_id, None)
        self._deleted.add(snapshot_id)

    async def timeout(self, sandbox_id: str, body: wire.Timeout) -> wire.SandboxReport:
        self.bodies.append(body)
        held = self._get(sandbox_id)
        if await self._go(Command.TIMEOUT, sandbox_id, body.generation):
            before = held.report.expires_at
            expires = expiry(body.ttl_sec, time.time(), before, extend=body.extend)
            held.report = replace(held.report, expires_at=expires)
            held.on_timeout, held.pause_memory = body.on_timeout, body.pause_memory
        answer = await self._answer(Command.TIMEOUT, held)
        if body.ttl_sec == 0 and held.report.state is State.RUNNING:
            self.expires(sandbox_id)
        return answer

    async def rewire(self, sandbox_id: str, body: wire.Rewire) -> wire.SandboxReport:
        self.bodies.append(body)
        held = self._get(sandbox_id)
        if await self._go(Command.REWIRE, sandbox_id, body.generation):
            held.network = body.network
        return await self._answer(Command.REWIRE, held)

    async def kill(self, sandbox_id: str, generation: int, *, elsewhere: bool = False) -> None:
        if await self._go(Command.KILL, sandbox_id, generation):
            await self._drop(sandbox_id)
        if not elsewhere:
            self._graves[sandbox_id] = generation
            if self.objects is not None:
                for key in [key for key in self.objects.sandboxes if key[0] == sandbox_id]:
                    del self.objects.sandboxes[key]
        await self.after(Command.KILL, sandbox_id)

    async def prepare(self, template: str, body: wire.Prepare) -> wire.TemplateReport:
        return wire.TemplateReport(
            template=template,
            vcpus=body.vcpus,
            memory_mb=body.memory_mb,
            disk_mb=body.disk_mb,
            boot_seconds=0.0,
        )

    async def drain(self, mode: str) -> list[wire.SandboxReport]:
        for held in list(self.held.values()):
            if mode == "kill":
                await self._drop(held.report.id)
            elif held.report.state is State.RUNNING:
                self._rest(held, memory=True)
        return self.reports()

    def get(self, sandbox_id: str) -> wire.SandboxReport:
        return self._get(sandbox_id).report

    def reports(self) -> list[wire.SandboxReport]:
        return [held.report for held in self.held.values()]

    def reach(self, sandbox_id: str) -> Reach:
        """The tunnel asks for a slot and gives it to `connect`: the sandbox itself travels as that slot."""
        held = self._get(sandbox_id)
        if held.report.state is not State.RUNNING:
            raise NotFound("the sandbox does not run", code="sandbox_not_found")
        return Reach(cast("Slot", held), held.access_token)

    async def connect(self, slot: Slot, port: int, timeout: float) -> socket.socket:
        """Ports other than envd's are those of this machine's loopback."""
        held = cast("Held", slot)
        if port == envd.PORT:
            if held.envd is None:
                raise ConnectionRefusedError("this sandbox has no envd")
            port = held.envd.port
        loop = asyncio.get_running_loop()
        connected = socket.socket()
        connected.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                await loop.sock_connect(connected, ("127.0.0.1", port))
        except BaseException:
            connected.close()
            raise
        return connected

    # What happens on a host by itself

    def ends(self, sandbox_id: str, reason: Reason, *, console: str | None = None) -> None:
        """Its VM ends."""
        held = self._get(sandbox_id)
        state = State.KILLED if reason is Reason.TIMEOUT else State.FAILED
        held.report = replace(
            held.report,
            state=state,
            reason=reason,
            message="ended by itself",
            console=console,
            expires_at=None,
        )
        self.cut(sandbox_id)

    def pauses(self, sandbox_id: str) -> None:
        """Its time is over, and it is paused."""
        held = self._get(sandbox_id)
        self._rest(held, memory=held.pause_memory)
        held.report = replace(held.report, reason=Reason.TIMEOUT)

    def expires(self, sandbox_id: str) -> None:
        """Its time is over, and what was asked for then happens."""
        if self._get(sandbox_id).on_timeout == "pause":
            self.pauses(sandbox_id)
        else:
            self.ends(sandbox_id, Reason.TIMEOUT)

    def samples(self, at: float | None = None) -> list[wire.Sample]:
        """A made-up one of each running sandbox.

        :param at: Unix seconds; None: now"""
        now = time.time() if at is None else at
        running = (report for report in self.reports() if report.state is State.RUNNING)
        return [
            wire.Sample(
                sandbox_id=report.id,
                at=now,
                cpu_count=report.vcpus,
                cpu_used_pct=12.5,
                mem_used=report.memory_mb << 18,
                mem_total=report.memory_mb << 20,
                mem_cache=report.memory_mb << 17,
                disk_used=report.disk_mb << 18,
                disk_total=report.disk_mb << 20,
                seconds=5.0,
            )
            for report in running
        ]

    async def close(self) -> None:
        for sandbox_id in list(self.held):
            await self._drop(sandbox_id)

    # Inside

    def _get(self, sandbox_id: str) -> Held:
        held = self.held.get(sandbox_id)
        if held is None:
            raise NotFound("this host has no such sandbox", code="sandbox_not_found")
        return held

    def _saved(self, snapshot_id: str) -> HeldSnapshot:
        saved = self.snapshots.get(snapshot_id)
        if saved is None and self.objects is not None:
            self.objects.check()
            saved = self.objects.snapshots.get(snapshot_id)
        if saved is None:
            raise checks.no_snapshot()
        return saved

    def _check_earlier(self, snapshot_id: str, sandbox_id: str) -> None:
        if self._saved(snapshot_id).source.id != sandbox_id:
            raise Conflict("the snapshot was taken of another sandbox", code="snapshot_of_another")

    def _store(self) -> SimulatedStore:
        if self.objects is None:
            raise Unavailable("this host has no object store", code="no_object_store", retryable=False)
        self.objects.check()
        return self.objects

    def _rest(self, held: Held, *, memory: bool) -> None:
        held.report = replace(
            held.report,
            state=State.PAUSED,
            saved_memory=memory,
            saved_generation=held.report.generation,
            expires_at=None,
        )
        self.cut(held.report.id)

    async def _go(self, command: Command, sandbox_id: str, generation: int) -> bool:
        """Whether the command is to be carried out now; raises when it is refused."""
        self.calls.append((command, sandbox_id, generation))
        await self.before(command, sandbox_id)
        held = self.held.get(sandbox_id)
        known = (held.report.state, held.report.generation) if held else None
        if command is Command.START and self._graves.get(sandbox_id, 0) >= generation:
            raise NotFound("it was killed before it started", code="sandbox_not_found")
        verdict = decide(known, command, generation)
        if isinstance(verdict, Refuse):
            raise verdict.error
        return not isinstance(verdict, Done)

    async def _begin(self, command: Command, sandbox_id: str, new: Held) -> wire.SandboxReport:
        if await self._go(command, sandbox_id, new.report.generation):
            if self._envd is not None:
                new.envd = await start_envd(self._envd)
                await introduce(new, None)
            self.held[sandbox_id] = new
        return await self._answer(command, self.held[sandbox_id])

    async def _answer(self, command: Command, held: Held) -> wire.SandboxReport:
        await self.after(command, held.report.id)
        return held.report

    async def _drop(self, sandbox_id: str) -> None:
        held = self.held.pop(sandbox_id, None)
        if held is not None:
            self.cut(sandbox_id)
            await stop(held)


def _expiry(ttl_sec: float | None) -> float | None:
    return None if ttl_sec is None else time.time() + ttl_sec
