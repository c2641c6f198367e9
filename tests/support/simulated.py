"""A whole control plane behind its edge, with simulated hosts: everything real but the VMs."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.api import Client
from wrenn_server.controlplane import app, bootstrap
from wrenn_server.controlplane.bootstrap import Bootstrapped
from wrenn_server.controlplane.config import Config
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.hostagent import simulated
from wrenn_server.hostagent.simulated import SimulatedAgent

PASSWORD = "correct horse battery"


@dataclass(frozen=True, slots=True)
class World:
    """A running control plane, its administrator, and a client for each kind of credential."""

    url: str
    cp: ControlPlane
    admin: Bootstrapped
    api: Client
    """With the API key of the administrator's team."""
    user: Client
    """With the administrator's token."""
    tls_url: str | None = None

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    @asynccontextmanager
    async def host(self, **options: Any) -> AsyncGenerator[SimulatedAgent, None]:
        """Another host, registered and online."""
        created = await bootstrap.create_host(self.cp.db)
        async with simulated.running(self.url, created.registration_token, **options) as agent:
            yield agent

    async def new_sandbox(self, **wanted: Any) -> dict[str, Any]:
        response = await self.api.post("/v1/sandboxes", wanted)
        assert response.status_code == 201, response.text
        return response.json()

    async def state(self, sandbox_id: str) -> str:
        return (await self.api.get(f"/v1/sandboxes/{sandbox_id}")).json()["status"]


@asynccontextmanager
async def control_plane(database_url: str, **settings: Any) -> AsyncGenerator[World, None]:
    async with AsyncExitStack() as stack:
        config = Config(listen="127.0.0.1:0", **settings)
        running = await stack.enter_async_context(app.serving(config, database_url))
        admin = await bootstrap.bootstrap(running.cp.db, "admin@example.com", PASSWORD)
        url = f"http://{running.address}"
        plain = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30, verify=False)
        http = await stack.enter_async_context(plain)
        client = Client(http)
        login = await client.post(
            "/v1/auth/login", {"email": admin.admin_email, "password": admin.admin_password}
        )
        yield World(
            url,
            running.cp,
            admin,
            client.with_key(admin.api_key),
            client.with_token(login.json()["token"]),
            f"https://{running.tls_address}" if running.tls_address else None,
        )


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with control_plane(database_url) as running:
        yield running


@pytest.fixture
async def host(world: World) -> AsyncIterator[SimulatedAgent]:
    """A host without envd: everything but programs and files."""
    async with world.host() as agent:
        yield agent


@pytest.fixture
async def host_with_envd(world: World, envd_binary: Path) -> AsyncIterator[SimulatedAgent]:
    async with world.host(envd_binary=envd_binary) as agent:
        yield agent


class Gate:
    """Holds a hook at a certain command until the test lets it go on.

    ```python
    host.host.before = (gate := Gate(Command.START))
    task = asyncio.create_task(…)
    await gate.reached.wait()
    gate.open.set()
    ```
    """

    def __init__(self, *commands: object) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self._commands = commands

    async def __call__(self, command: object, sandbox_id: str) -> None:
        if command in self._commands:
            self.reached.set()
            await self.open.wait()


async def eventually(check: Callable[[], Awaitable[bool]], *, within: float = 20.0) -> None:
    """For what a reconciler does in its own time: waits until `check` says yes."""
    async with asyncio.timeout(within):
        while not await check():  # noqa: ASYNC110 - what it waits for is in a database
            await asyncio.sleep(0.02)
