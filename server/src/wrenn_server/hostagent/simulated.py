"""A host agent without VMs: the real RPC, registration and heartbeats over the sandboxes of `simulated_host.py`.

For tests and load measurements of the control plane. With a path to envd, every sandbox has an `envd serve
--no-guest` of its own that its tunnel leads to, so programs and files are real (and are those of this machine).
"""

import socket
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
from prometheus_client import CollectorRegistry

from wrenn_server.edge import application
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Limits
from wrenn_server.hostagent import registration, rpc, tunnel
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials, Verifier
from wrenn_server.hostagent.network.base import SlotPool
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.simulated_host import SimulatedHost
from wrenn_server.wire import agent as wire

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
    sampled: int = 0
    """Samples that were sent."""
    installation: str = ""

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
            snapshots=self.host.stored_snapshots(),
            installation=self.installation,
        )

    async def beat(self) -> None:
        """:raises WrennError: the control plane refused it"""
        await self._post("heartbeat", self.heartbeat())

    async def send(self, samples: list[wire.Sample]) -> None:
        """:raises WrennError: the control plane refused them"""
        first = self.sampled + 1
        self.sampled += len(samples)
        await self._post("samples", wire.Samples(samples=samples, epoch=self.started_at, first=first))

    async def _post(self, what: str, body: msgspec.Struct) -> None:
        path = f"/v1/hosts/{self.host_id}/{what}"
        await self.control_plane.post(path, body, timeout=30, token=self.credentials.token)


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
        listener = Listener(address, route, trusted=True, limits=Limits(grace=0.2))
        await stack.enter_async_context(listener)
        host.cut = listener.abort
        yield


@asynccontextmanager
async def _served(app: object, directory: str) -> AsyncGenerator[str, None]:
    """The RPC on a unix socket; gives its path. Not that of `app`, which needs every VMM and host tool to load."""
    path = f"{directory}/agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen(512)
        async with application.served(app, listening):
            yield path


def _free(listen: str) -> str:
    """HOST:PORT with a port that was free a moment ago."""
    name, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.bind((name, int(port)))
        return f"{name}:{probe.getsockname()[1]}"
