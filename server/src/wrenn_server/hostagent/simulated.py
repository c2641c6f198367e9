"""A host agent without VMs: the real RPC, its rules, registration and heartbeats over a dict of sandboxes.

For tests and load measurements of the control plane. With a path to envd, every sandbox has an `envd serve
--no-guest` of its own that its tunnel leads to, so programs and files are real (and are those of this machine).
"""

import asyncio
import contextlib
import os
import re
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import uvicorn
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Limits
from wrenn_server.hostagent import registration, rpc, tunnel
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials, Verifier
from wrenn_server.hostagent.network.base import Slot, SlotPool
from wrenn_server.hostagent.sandbox.lifecycle import Command, Done, Refuse, decide
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.model.errors import NotFound, WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd, http1
from wrenn_server.wire.stream import connect_tcp

SPECS = wire.HostSpecs(
    arch="x86_64",
    cpus=64,
    memory_mb=262_144,
    disk_mb=1_000_000,
    vmm="simulated",
    vmm_version="1",
    accelerated=True,
    version="simulated",
)

Hook = Callable[[Command, str], Awaitable[None]]
"""Called with a command and a sandbox's id; may wait, or raise to have the command fail there."""


@dataclass(slots=True)
class Held:
    """What the host has of one sandbox."""

    report: wire.SandboxReport
    access_token: str = field(repr=False)
    process: asyncio.subprocess.Process | None = None
    port: int = 0
    """Where its envd listens on loopback; 0: it has none."""


async def _nothing(command: Command, sandbox_id: str) -> None:
    pass


class SimulatedHost:
    """The place of `Registry` in the agent, with the same methods and the same rules."""

    def __init__(self, envd_binary: Path | None = None) -> None:
        self.held: dict[str, Held] = {}
        self.calls: list[tuple[Command, str, int]] = []
        """Every command that came, with its generation, carried out or not."""
        self.before: Hook = _nothing
        """Runs before a command is carried out; raising makes it fail with nothing done."""
        self.after: Hook = _nothing
        """Runs when a command has been carried out and before it is answered."""
        self._envd = envd_binary
        self._graves: dict[str, int] = {}

    # What the RPC calls

    async def start(self, sandbox_id: str, body: wire.Start) -> wire.SandboxReport:
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
        new = Held(report, body.access_token)
        return await self._begin(Command.START, sandbox_id, new, body.envs)

    async def pause(self, sandbox_id: str, body: wire.Pause) -> wire.SandboxReport:
        held = self._get(sandbox_id)
        if await self._go(Command.PAUSE, sandbox_id, body.generation):
            held.report = replace(held.report, state=State.PAUSED, expires_at=None)
        return await self._answer(Command.PAUSE, held)

    async def resume(self, sandbox_id: str, body: wire.Resume) -> wire.SandboxReport:
        held = self._get(sandbox_id)
        if await self._go(Command.RESUME, sandbox_id, body.generation):
            held.report = replace(
                held.report,
                state=State.RUNNING,
                generation=body.generation,
                expires_at=_expiry(body.ttl_sec),
            )
        return await self._answer(Command.RESUME, held)

    async def fork(self, sandbox_id: str, body: wire.Fork) -> wire.ForkReport:
        source = self._get(sandbox_id)
        await self._go(Command.FORK, sandbox_id, body.generation)
        results: list[wire.ForkResult] = []
        for target in body.targets:
            report = replace(
                source.report, id=target.id, generation=target.generation, expires_at=_expiry(target.ttl_sec)
            )
            try:
                made = await self._begin(Command.START, target.id, Held(report, target.access_token), {})
                results.append(wire.ForkResult(id=target.id, report=made))
            except WrennError as error:
                results.append(
                    wire.ForkResult(id=target.id, error_code=error.code, error_message=error.message)
                )
        await self.after(Command.FORK, sandbox_id)
        return wire.ForkReport(results)

    async def timeout(self, sandbox_id: str, body: wire.Timeout) -> wire.SandboxReport:
        held = self._get(sandbox_id)
        if await self._go(Command.TIMEOUT, sandbox_id, body.generation):
            held.report = replace(held.report, expires_at=_expiry(body.ttl_sec))
        return await self._answer(Command.TIMEOUT, held)

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
                held.report = replace(held.report, state=State.PAUSED, expires_at=None)
        return self.reports()

    def get(self, sandbox_id: str) -> wire.SandboxReport:
        return self._get(sandbox_id).report

    def reports(self) -> list[wire.SandboxReport]:
        return [held.report for held in self.held.values()]

    def slot(self, sandbox_id: str) -> Slot:
        """The tunnel asks for a slot and gives it to `connect`: the port of envd travels as the slot's index."""
        held = self._get(sandbox_id)
        if held.report.state is not State.RUNNING:
            raise NotFound("the sandbox does not run", code="sandbox_not_found")
        return cast("Slot", held)

    async def connect(self, slot: Slot, port: int, timeout: float) -> socket.socket:
        """Ports other than envd's are those of this machine's loopback."""
        held = cast("Held", slot)
        if port == envd.PORT and not held.port:
            raise ConnectionRefusedError("this sandbox has no envd")
        loop = asyncio.get_running_loop()
        connected = socket.socket()
        connected.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                await loop.sock_connect(connected, ("127.0.0.1", held.port if port == envd.PORT else port))
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

    def pauses(self, sandbox_id: str) -> None:
        """Its time is over, and it is paused."""
        held = self._get(sandbox_id)
        held.report = replace(held.report, state=State.PAUSED, reason=Reason.TIMEOUT, expires_at=None)

    async def close(self) -> None:
        for sandbox_id in list(self.held):
            await self._drop(sandbox_id)

    # Inside

    def _get(self, sandbox_id: str) -> Held:
        held = self.held.get(sandbox_id)
        if held is None:
            raise NotFound("this host has no such sandbox", code="sandbox_not_found")
        return held

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

    async def _begin(
        self, command: Command, sandbox_id: str, new: Held, envs: dict[str, str]
    ) -> wire.SandboxReport:
        if await self._go(command, sandbox_id, new.report.generation):
            if self._envd is not None:
                await _start_envd(self._envd, new, envs)
            self.held[sandbox_id] = new
        return await self._answer(command, self.held[sandbox_id])

    async def _answer(self, command: Command, held: Held) -> wire.SandboxReport:
        await self.after(command, held.report.id)
        return held.report

    async def _drop(self, sandbox_id: str) -> None:
        held = self.held.pop(sandbox_id, None)
        if held is not None and held.process is not None:
            with contextlib.suppress(ProcessLookupError):
                held.process.kill()
            await held.process.wait()


@dataclass(slots=True)
class SimulatedAgent:
    """A registered agent that serves. `beat` sends a heartbeat when the test wants one."""

    host: SimulatedHost
    credentials: Credentials
    address: str
    specs: wire.HostSpecs
    templates: list[str]
    control_plane: ControlPlane
    started_at: float = field(default_factory=time.time)
    sequence: int = 0

    @property
    def host_id(self) -> str:
        return self.credentials.host_id

    def heartbeat(self) -> wire.Heartbeat:
        self.sequence += 1
        return wire.Heartbeat(
            specs=self.specs,
            address=self.address,
            sequence=self.sequence,
            started_at=self.started_at,
            sandboxes=self.host.reports(),
            templates=self.templates,
        )

    async def beat(self) -> None:
        """:raises WrennError: the control plane refused it"""
        await self.control_plane.post(
            f"/v1/hosts/{self.host_id}/heartbeat", self.heartbeat(), timeout=30, token=self.credentials.token
        )


@asynccontextmanager
async def running(
    control_plane_url: str,
    token: str,
    *,
    envd_binary: Path | None = None,
    specs: wire.HostSpecs = SPECS,
    templates: list[str] | None = None,
    host: SimulatedHost | None = None,
    listen: str = "127.0.0.1:0",
) -> AsyncGenerator[SimulatedAgent, None]:
    """Registers with the token, serves, and has sent its first heartbeat.

    :param host: of an agent that ran before, with its sandboxes
    """
    simulated = host or SimulatedHost(envd_binary)
    control_plane = ControlPlane(control_plane_url)
    async with AsyncExitStack() as stack:
        address = _free(listen)  # needed to register, and the credentials of that to serve
        credentials = await registration.register(control_plane, token, address, specs)
        await stack.enter_async_context(serving(simulated, credentials, address))
        if host is None:
            stack.push_async_callback(simulated.close)
        agent = SimulatedAgent(
            simulated,
            credentials,
            address,
            specs,
            ["minimal"] if templates is None else templates,
            control_plane,
        )
        await agent.beat()
        yield agent


@asynccontextmanager
async def serving(host: SimulatedHost, credentials: Credentials, address: str) -> AsyncGenerator[None, None]:
    """The agent's port, with the real RPC behind the real listener."""
    verifier = Verifier(credentials)
    registry = cast("Registry", host)

    async def health() -> wire.AgentHealth:
        return wire.AgentHealth(
            version="simulated", vmm="simulated", vmm_version="1", accelerated=True, sandboxes=len(host.held)
        )

    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="wrenn-simulated-"))
        app = rpc.build(registry, verifier, health, CollectorRegistry())
        path = await stack.enter_async_context(_served(app, directory))
        route = tunnel.routes(registry, cast("SlotPool", host), verifier, path)
        await stack.enter_async_context(Listener(address, route, trusted=True, limits=Limits(grace=0.2)))
        yield


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the program's business."""
        yield


@asynccontextmanager
async def _served(app: object, directory: str) -> AsyncGenerator[str, None]:
    """The RPC on a unix socket; gives its path. Not that of `app`, which needs every VMM and host tool to load."""
    path = f"{directory}/agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen(512)
        server = _Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))  # pyright: ignore[reportArgumentType] - Litestar's own ASGI types are not uvicorn's
        task = asyncio.create_task(server.serve(sockets=[listening]), name="simulated rpc")
        try:
            yield path
        finally:
            server.should_exit = True
            await task


def _free(listen: str) -> str:
    """HOST:PORT with a port that was free a moment ago."""
    name, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.bind((name, int(port)))
        return f"{name}:{probe.getsockname()[1]}"


async def _start_envd(binary: Path, held: Held, envs: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        os.fspath(binary), "serve", "--no-guest", "--listen", "127.0.0.1:0",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    held.process = process
    if process.stderr is None:
        raise AssertionError("stderr is a pipe")
    line = (await process.stderr.readline()).decode()
    found = re.search(r":(\d+)\s*$", line)
    if found is None:
        raise RuntimeError(f"envd did not say where it listens: {line!r}")
    held.port = int(found[1])
    init = envd.Init(
        access_token=held.access_token, env_vars=envs, default_user="root", sandbox_id=held.report.id
    )
    stream = await connect_tcp("127.0.0.1", held.port)
    async with http1.Connection(stream) as connection:
        response = await connection.request(
            "POST", "/init", headers=[("Content-Type", "application/json")], body=msgspec.json.encode(init)
        )
        await response.read(limit=65536)
        if response.status != 204:
            raise RuntimeError(f"envd refused /init with {response.status}")


def _expiry(ttl_sec: float | None) -> float | None:
    return None if ttl_sec is None else time.time() + ttl_sec
