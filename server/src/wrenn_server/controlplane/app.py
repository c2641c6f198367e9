"""The running control plane: everything with an end, in the order in which it depends on each other."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from wrenn_server.controlplane import hosts_client, keys, seen, work
from wrenn_server.controlplane.api import app as api
from wrenn_server.controlplane.config import Config
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.reconcile import hosts as reconcile_hosts
from wrenn_server.controlplane.reconcile import loop
from wrenn_server.controlplane.reconcile import sandboxes as reconcile_sandboxes
from wrenn_server.controlplane.services import routes
from wrenn_server.controlplane.services.routes import Routes
from wrenn_server.db import migrate, pool
from wrenn_server.db.pool import Database
from wrenn_server.edge import answers, route
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.sandbox import sandbox_upstream
from wrenn_server.edge.target import Answer, Exchange, Peer, Route, Target, Upstream
from wrenn_server.model.errors import NotFound
from wrenn_server.model.ids import SandboxId
from wrenn_server.model.sandbox import State
from wrenn_server.wire.head import Head
from wrenn_server.wire.stream import Stream, connect_unix

API_KEEP = 4.0
"""Seconds; uvicorn closes idle connections after 5."""

log = structlog.get_logger()


class WrongSchema(Exception):
    """The database's schema is not the one that this program needs; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Running:
    address: str
    """HOST:PORT that it listens on."""
    cp: ControlPlane


@asynccontextmanager
async def serving(config: Config, database_url: str) -> AsyncGenerator[Running, None]:
    """Serves while the context lasts. At its end requests and work in flight finish first, within limits.

    :raises WrongSchema: :raises DatabaseUnavailable: :raises OSError: the address cannot be had
    """
    await demand_schema(database_url)
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(pool.connect(database_url))
        cp = await stack.enter_async_context(composed(config, db))
        path = await stack.enter_async_context(served(api.build(cp)))
        listener = Listener(config.listen, edge_route(cp.routes, path), observe=observer(cp))
        cp.routes.on_gone.append(listener.abort)
        await stack.enter_async_context(listener)
        yield Running(listener.address, cp)


async def demand_schema(database_url: str) -> None:
    """:raises WrongSchema: :raises DatabaseUnavailable:"""
    found, needed = await migrate.current(database_url), migrate.head()
    if found != needed:
        has = f"has schema {found}" if found else "is empty"
        raise WrongSchema(f"the database {has}, this program needs {needed}: run `wrenn-cp migrate up`")


@asynccontextmanager
async def composed(config: Config, db: Database) -> AsyncGenerator[ControlPlane, None]:
    """Services and reconcilers, without any listener."""
    async with AsyncExitStack() as stack:
        own = await keys.load(db)
        client = await stack.enter_async_context(hosts_client.connect(own))
        where = Routes(db, client, config.agent)
        await stack.enter_async_context(routes.listening(where))
        # Work ends before what it works with does.
        doing = await stack.enter_async_context(work.running(db))
        cp = ControlPlane(config=config, db=db, keys=own, hosts=client, routes=where, work=doing)
        for name, once, interval, wake in (
            ("hosts", reconcile_hosts.converge, reconcile_hosts.INTERVAL, None),
            ("sandboxes", reconcile_sandboxes.converge, reconcile_sandboxes.INTERVAL, cp.wake),
            ("seen", write_seen, seen.INTERVAL, None),
        ):
            stack.enter_context(
                _kept(loop.forever(name, partial(once, cp), interval=interval, wake=wake), name)
            )
        yield cp


async def write_seen(cp: ControlPlane) -> None:
    await cp.seen.write(cp.db)


def observer(cp: ControlPlane) -> Callable[[Exchange], None]:
    """What every finished request is noted for."""

    def observe(exchange: Exchange) -> None:
        cp.metrics.observe(exchange)
        if isinstance(exchange.to, Upstream) and isinstance(exchange.to.group, str):
            cp.seen.sandbox(exchange.to.group)

    return observe


def edge_route(where: Routes, api_socket: str) -> Route:
    """Sandbox traffic to the sandbox's port, everything else to the API."""
    to_api = Upstream(connect=lambda: connect_unix(api_socket), key=("api",), keep=API_KEEP)

    async def choose(head: Head, peer: Peer) -> Target:
        match route.route(head):
            case route.ToApi():
                return to_api
            case route.Refuse(answer):
                return answer
            case route.ToSandbox(id=sandbox_id, port=port):
                return await _to_sandbox(where, sandbox_id, port)

    return choose


async def _to_sandbox(where: Routes, sandbox_id: SandboxId, port: int) -> Upstream | Answer:
    try:
        location = await where.locate(sandbox_id)
    except NotFound:
        return answers.sandbox_not_found(sandbox_id)
    if location.state is not State.RUNNING:
        return answers.sandbox_not_found(sandbox_id)

    async def dial() -> Stream:
        return await where.open_tunnel(sandbox_id, port)

    return sandbox_upstream(sandbox_id, location.generation, port, dial)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the program's business."""
        yield


@asynccontextmanager
async def served(app: object) -> AsyncGenerator[str, None]:
    """The API on a unix socket, for the edge alone; gives its path."""
    with tempfile.TemporaryDirectory(prefix="wrenn-cp-") as directory:
        path = os.fspath(Path(directory) / "api.sock")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(path)
            listening.listen(1024)  # from here on the kernel keeps early callers waiting
            settings = uvicorn.Config(
                app,  # pyright: ignore[reportArgumentType] - Litestar's own ASGI types are not uvicorn's
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
            server = _Server(settings)
            task = asyncio.create_task(server.serve(sockets=[listening]), name="api")
            try:
                yield path
            finally:
                server.should_exit = True
                await task
        finally:
            listening.close()


@contextmanager
def _kept(work: Coroutine[Any, Any, None], name: str) -> Generator[None, None, None]:
    task = asyncio.create_task(work, name=f"reconcile {name}")
    try:
        yield
    finally:
        task.cancel()
