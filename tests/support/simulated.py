"""Two whole control planes behind their edges on one database, with simulated hosts: everything real but the VMs."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
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
    """Running control planes, their administrator, and a client for each kind of credential, whose requests go to each of
    them in turn."""

    url: str
    """Of the first one."""
    cp: ControlPlane
    """The first one."""
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


class Turns(httpx2.AsyncHTTPTransport):
    """Each request goes to the next of several servers."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(trust_env=False, verify=False)
        self._next = itertools.cycle(addresses)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host, _, port = next(self._next).rpartition(":")
        request.url = request.url.copy_with(host=host, port=int(port))
        return await super().handle_async_request(request)


@asynccontextmanager
async def control_plane(
    database_url: str, *, planes: int = 2, **settings: Any
) -> AsyncGenerator[World, None]:
    """
    :param planes: how many of them; one where the test is of what a single one keeps in its memory
    """
    async with AsyncExitStack() as stack:
        config = Config(listen="127.0.0.1:0", **settings)
        running = await stack.enter_async_context(app.serving(config, database_url))
        admin = await bootstrap.bootstrap(running.cp.db, "admin@example.com", PASSWORD)
        others = [
            await stack.enter_async_context(app.serving(config, database_url)) for _ in range(1, planes)
        ]
        url = f"http://{running.address}"
        turns = Turns([one.address for one in (running, *others)])
        plain = httpx2.AsyncClient(base_url=url, transport=turns, timeout=30)
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
