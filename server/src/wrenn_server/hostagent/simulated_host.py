"""The sandboxes of a host agent without VMs: the same commands and the same rules over a dictionary."""

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import cast

import msgspec
from msgspec.structs import replace

from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.sandbox import checks
from wrenn_server.hostagent.sandbox.lifecycle import Command, Done, Refuse, decide, expiry
from wrenn_server.hostagent.sandbox.registry import Reach
from wrenn_server.model.errors import NotFound, WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd, http1
from wrenn_server.wire.stream import connect_tcp

SAVED_DISK = 3 << 20
"""Bytes that a made-up snapshot takes beside its memory."""

Hook = Callable[[Command, str], Awaitable[None]]
"""Called with a command and a sandbox's id; may wait, or raise to have the command fail there."""


@dataclass(slots=True)
class Envd:
    """One `envd serve --no-guest`: its programs and files are those of this machine."""

    process: asyncio.subprocess.Process
    port: int
    """On loopback."""


@dataclass(slots=True)
class Held:
    """What the host has of one sandbox."""

    report: wire.SandboxReport
    access_token: str = field(repr=False)
    network: wire.Network
    on_timeout: str
    pause_memory: bool
    envs: dict[str, str] = field(default_factory=dict[str, str])
    snapshot: str | None = None
    """Id of the snapshot that it was started from."""
    envd: Envd | None = None


@dataclass(slots=True)
class HeldSnapshot:
    """What the host has of one snapshot."""

    report: wire.SnapshotReport
    source: wire.SandboxReport
    envs: dict[str, str]


async def _nothing(command: Command, sandbox_id: str) -> None:
    pass


class SimulatedHost:
    """The place of `Registry` in the agent, with the same methods and the same rules."""

    def __init__(self, envd_binary: Path | None = None) -> None:
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
            saved = self.snapshots.get(body.snapshot)
            if saved is None:
                raise checks.no_snapshot()
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
        held = self._get(sandbox_id)
        if await self._go(Command.RESUME, sandbox_id, body.generation):
            boots = not (body.memory and held.report.saved_memory)
            proof, held.access_token = held.access_token, body.access_token
            if self._envd is not None and boots:
                await _stop(held)
                held.envd = await _start_envd(self._envd)
                await _introduce(held, None)
            elif held.envd is not None:
                await _introduce(held, proof)
            held.on_timeout, held.pause_memory = body.on_timeout, body.pause_memory
            held.network = body.network or held.network
            held.report = replace(
                held.report,
                state=State.RUNNING,
                reason=None,
                generation=body.generation,
                saved_memory=None,
                expires_at=_expiry(body.ttl_sec),
            )
        return await self._answer(Command.RESUME, held)

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

    async def kill(self, sandbox_id: str, generation: int) -> None:
        if await self._go(Command.KILL, sandbox_id, generation):
            await self._drop(sandbox_id)
        self._graves[sandbox_id] = generation
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

    def _rest(self, held: Held, *, memory: bool) -> None:
        held.report = replace(held.report, state=State.PAUSED, saved_memory=memory, expires_at=None)
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
                new.envd = await _start_envd(self._envd)
                await _introduce(new, None)
            self.held[sandbox_id] = new
        return await self._answer(command, self.held[sandbox_id])

    async def _answer(self, command: Command, held: Held) -> wire.SandboxReport:
        await self.after(command, held.report.id)
        return held.report

    async def _drop(self, sandbox_id: str) -> None:
        held = self.held.pop(sandbox_id, None)
        if held is not None:
            self.cut(sandbox_id)
            await _stop(held)


async def _start_envd(binary: Path) -> Envd:
    process = await asyncio.create_subprocess_exec(
        os.fspath(binary), "serve", "--no-guest", "--listen", "127.0.0.1:0",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    if process.stderr is None:
        raise AssertionError("stderr is a pipe")
    line = (await process.stderr.readline()).decode()
    found = re.search(r":(\d+)\s*$", line)
    if found is None:
        raise RuntimeError(f"envd did not say where it listens: {line!r}")
    return Envd(process, int(found[1]))


async def _stop(held: Held) -> None:
    if held.envd is not None:
        with contextlib.suppress(ProcessLookupError):
            held.envd.process.kill()
        await held.envd.process.wait()


async def _introduce(held: Held, proof: str | None) -> None:
    """:param proof: the token that its envd asks for until now"""
    if held.envd is None:
        return
    init = envd.Init(
        access_token=held.access_token,
        env_vars=held.envs,
        default_user="root",
        sandbox_id=held.report.id,
    )
    headers = [("Content-Type", "application/json")]
    if proof is not None:
        headers.append(("X-Access-Token", proof))
    stream = await connect_tcp("127.0.0.1", held.envd.port)
    async with http1.Connection(stream) as connection:
        response = await connection.request("POST", "/init", headers=headers, body=msgspec.json.encode(init))
        await response.read(limit=65536)
        if response.status != 204:
            raise RuntimeError(f"envd refused /init with {response.status}")


def _expiry(ttl_sec: float | None) -> float | None:
    return None if ttl_sec is None else time.time() + ttl_sec
