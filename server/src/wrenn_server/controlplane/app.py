"""The running control plane: everything with an end, in the order in which it depends on each other."""

import asyncio
import os
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from wrenn_server.controlplane import hosts_client, keys, metrics, seen, work
from wrenn_server.controlplane.api import app as api
from wrenn_server.controlplane.api import shape_channels
from wrenn_server.controlplane.certificate import Certificate
from wrenn_server.controlplane.config import Config, Tls
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.reconcile import drains as reconcile_drains
from wrenn_server.controlplane.reconcile import hosts as reconcile_hosts
from wrenn_server.controlplane.reconcile import invoices as reconcile_invoices
from wrenn_server.controlplane.reconcile import loop, webhooks
from wrenn_server.controlplane.reconcile import people as reconcile_people
from wrenn_server.controlplane.reconcile import samples as reconcile_samples
from wrenn_server.controlplane.reconcile import sandboxes as reconcile_sandboxes
from wrenn_server.controlplane.reconcile import snapshots as reconcile_snapshots
from wrenn_server.controlplane.reconcile import usage as reconcile_usage
from wrenn_server.controlplane.services import deliveries, events, idempotency, routes, wakes
from wrenn_server.controlplane.services.routes import Routes
from wrenn_server.controlplane.traffic import Traffic
from wrenn_server.controlplane.workers import Place
from wrenn_server.db import migrate, pool
from wrenn_server.db.pool import Database
from wrenn_server.edge import application
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Exchange, Upstream

CONNECTIONS = 16
CONNECTIONS_OF_WORKERS = 48
"""To PostgreSQL, of all workers together: the embedded one takes 60."""

log = structlog.get_logger()


class WrongSchema(Exception):
    """The database's schema is not the one that this program needs; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Running:
    address: str
    """HOST:PORT that it listens on."""
    tls_address: str | None
    cp: ControlPlane


@asynccontextmanager
async def serving(
    config: Config, database_url: str, place: Place | None = None
) -> AsyncGenerator[Running, None]:
    """Serves while the context lasts. At its end requests and work in flight finish first, within limits.

    :param place: one of several workers that share the address
    :raises WrongSchema: :raises DatabaseUnavailable: :raises BadCertificate: :raises OSError: the address cannot be had
    """
    await demand_schema(database_url)
    async with AsyncExitStack() as stack:
        size = CONNECTIONS if place is None else max(2, CONNECTIONS_OF_WORKERS // place.count)
        db = await stack.enter_async_context(pool.connect(database_url, max_size=min(size, CONNECTIONS)))
        cp = await stack.enter_async_context(composed(config, db))
        path = await stack.enter_async_context(served(api.build(cp)))
        if place is not None:
            await stack.enter_async_context(metrics.shared(cp.metrics, place))
        traffic = Traffic(cp, path)

        async def listening(address: str, certificate: ssl.SSLContext | None = None) -> str:
            listener = Listener(
                address,
                traffic.choose,
                ssl=certificate,
                trusted=lambda peer: peer.host in config.trusted_proxies,
                reuse_port=place is not None,
                observe=observer(cp),
            )
            cp.routes.on_gone.append(listener.abort)
            await stack.enter_async_context(listener)
            return listener.address

        tls_address = None
        if config.tls is not None:
            certificate = await stack.enter_async_context(certified(config.tls))
            tls_address = await listening(config.tls.listen, certificate)
        address = await listening(config.listen)
        stack.callback(cp.feed.close)  # before listeners wait for their clients: streams would never end
        yield Running(address, tls_address, cp)


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
        own = await keys.load(db, config.certificate_days)
        client = await stack.enter_async_context(hosts_client.connect(own))
        where = Routes(db, client, config.agent)
        await stack.enter_async_context(routes.listening(where))
        # Work ends before what it works with does.
        doing = await stack.enter_async_context(work.running(db))
        cp = ControlPlane(config=config, db=db, keys=own, hosts=client, routes=where, work=doing)
        stack.push_async_callback(wakes.close, cp)
        where.on_news.append(cp.feed.heard)
        for name, once, interval, wake in (
            ("hosts", reconcile_hosts.converge, reconcile_hosts.INTERVAL, None),
            ("sandboxes", reconcile_sandboxes.converge, reconcile_sandboxes.INTERVAL, cp.wake),
            ("snapshots", reconcile_snapshots.converge, reconcile_snapshots.INTERVAL, None),
            ("drains", reconcile_drains.converge, reconcile_drains.INTERVAL, None),
            ("people", reconcile_people.converge, reconcile_people.INTERVAL, None),
            ("idempotency", idempotency.expire, idempotency.EXPIRE_INTERVAL, None),
            ("events", events.publish, events.PUBLISH_INTERVAL, cp.feed.new),
            ("old deliveries", deliveries.expire, deliveries.EXPIRE_INTERVAL, None),
            ("old events", events.expire, events.EXPIRE_INTERVAL, None),
            ("invoices", reconcile_invoices.converge, reconcile_invoices.INTERVAL, None),
            ("samples", reconcile_samples.converge, reconcile_samples.INTERVAL, None),
            ("usage", reconcile_usage.converge, reconcile_usage.INTERVAL, None),
            ("seen", write_seen, seen.INTERVAL, None),
        ):
            stack.enter_context(
                _kept(loop.forever(name, partial(once, cp), interval=interval, wake=wake), name)
            )
        await stack.enter_async_context(webhooks.delivering(cp, shape_channels.body))
        yield cp


@asynccontextmanager
async def certified(tls: Tls) -> AsyncGenerator[ssl.SSLContext, None]:
    """What the TLS port presents, followed while the context lasts, and read again at SIGHUP.

    :raises BadCertificate: :raises OSError:
    """
    certificate = Certificate(tls.certificate, tls.key)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, certificate.try_reload)
    try:
        async with certificate.followed():
            yield certificate.context
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def write_seen(cp: ControlPlane) -> None:
    await cp.seen.write(cp.db)


def observer(cp: ControlPlane) -> Callable[[Exchange], None]:
    """What every finished request is noted for."""

    def observe(exchange: Exchange) -> None:
        cp.metrics.observe(exchange)
        if isinstance(exchange.to, Upstream) and isinstance(exchange.to.group, str):
            cp.seen.sandbox(exchange.to.group)

    return observe


@asynccontextmanager
async def served(app: object) -> AsyncGenerator[str, None]:
    """The API on a unix socket, for the edge alone; gives its path."""
    with (
        tempfile.TemporaryDirectory(prefix="wrenn-cp-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening,
    ):
        path = os.fspath(Path(directory) / "api.sock")
        listening.bind(path)
        listening.listen(1024)  # from here on the kernel keeps early callers waiting
        async with application.served(app, listening):
            yield path


@contextmanager
def _kept(work: Coroutine[Any, Any, None], name: str) -> Generator[None, None, None]:
    task = asyncio.create_task(work, name=f"reconcile {name}")
    try:
        yield
    finally:
        task.cancel()
