"""The agent, put together: each part is entered when what it needs is there, and left in the opposite order.

Leaving ends the agent, not the sandboxes: their VMs run on, and the next agent finds them by the journal.
"""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from wrenn_server.edge import application
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Exchange, Limits
from wrenn_server.hostagent import rpc, specs, tunnel
from wrenn_server.hostagent.config import Config
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials, Verifier
from wrenn_server.hostagent.drivers import Drivers
from wrenn_server.hostagent.guest.client import Guest
from wrenn_server.hostagent.heartbeat import Content, Heart
from wrenn_server.hostagent.metrics import Metrics
from wrenn_server.hostagent.network import plan
from wrenn_server.hostagent.network.slots import READY, Slots
from wrenn_server.hostagent.renewal import Renewal
from wrenn_server.hostagent.sampler import Sampler, Samples, Sender
from wrenn_server.hostagent.sandbox import recipe, standby
from wrenn_server.hostagent.sandbox.activity import Used
from wrenn_server.hostagent.sandbox.clock import WallClock
from wrenn_server.hostagent.sandbox.files import Files
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry, Journal
from wrenn_server.hostagent.sandbox.quiet import REST, Quiet
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.sandbox.spares import Spares
from wrenn_server.hostagent.sandbox.template import Templates
from wrenn_server.hostagent.sandbox.uploads import Uploads
from wrenn_server.hostagent.sandbox.warm import Warm
from wrenn_server.hostagent.storage.objects import Objects
from wrenn_server.hostagent.storage.store import Store
from wrenn_server.linux.cgroup import Cgroups
from wrenn_server.model.sandbox import State
from wrenn_server.wire.agent import AgentHealth, HostSpecs

VERSION = "0.1.0"
GRACE = 2.0
"""Seconds that calls get to finish when the agent stops. Tunnels never finish by themselves."""

log = structlog.get_logger()


class AlreadyRunning(Exception):
    """Another agent owns this data directory."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent."""

    address: str
    """HOST:PORT that it listens on."""
    registry: Registry


class Changes:
    """Whom a changed sandbox concerns; those who care come later than those who cause it."""

    def __init__(self) -> None:
        self.used: Used | None = None
        self.listener: Listener | None = None
        self.heart: Heart | None = None
        self.sampler: Sampler | None = None

    def __call__(self, entry: Entry) -> None:
        if entry.state is not State.RUNNING and self.used is not None:
            self.used.forget(entry.id)
        if self.sampler is not None:
            self.sampler.changed(entry)
        if self.heart is not None:
            self.heart.wake()
        if self.listener is not None and entry.state not in {State.RUNNING, State.PAUSING}:
            # Connections into a VM that is no more would hang; a reset tells their other ends.
            self.listener.abort(entry.id)


@asynccontextmanager
async def running(config: Config, credentials: Credentials, drivers: Drivers) -> AsyncGenerator[Agent]:
    """Serves while the context lasts.

    :raises AlreadyRunning: :raises OSError: a directory, port or kernel object cannot be had
    :raises VmmError: the VMM is unusable; :raises CgroupsUnavailable:"""
    async with AsyncExitStack() as stack:
        paths = config.paths
        paths.prepare()
        stack.enter_context(only_one(paths.run))
        files = Files.under(paths)
        cgroups = Cgroups.detect()
        quiet = Quiet()
        slots = Slots(
            tag=paths.tag,
            network=config.network,
            uid_base=config.uid_base,
            limit=_slots(config),
            rest=quiet.rest,
        )
        changes = Changes()
        uploads = _uploads(config, files)
        clock = WallClock()
        used = changes.used = Used(clock)
        host = Host(
            driver=await stack.enter_async_context(drivers.open(cgroups)),
            slots=slots,
            files=files,
            journal=Journal(config.sandboxes),
            guest=Guest(start_timeout=config.start_timeout, boot_timeout=config.boot_timeout),
            clock=clock,
            used=used,
            cgroup=f"wrenn-{paths.tag}",
            strays=cgroups,
            starts=asyncio.Semaphore(2 * (os.cpu_count() or 1)),
            changed=changes,
            uploads=uploads,
            quiet=quiet,
        )
        if uploads is not None:
            uploads.store.machine = await specs.machine(host.driver, accelerated=drivers.accelerated)
            uploads.store.turn = quiet.turn
        templates = Templates(host)
        warm = Warm(host, config.warm, specs.available_mb, partial(standby.restored, host), standby.kind)
        spares = None
        if host.driver.ahead is not None:
            ahead = Spares(host, host.driver.ahead)
            spares = Warm(host, config.spares, specs.available_mb, ahead.start, ahead.kind, quiet=REST)
        registry = Registry(
            host,
            templates,
            warm,
            take_spare=recipe.take_none if spares is None else spares.take,
            one_team=not (drivers.accelerated or config.emulated_tenants),
        )

        async def measure() -> HostSpecs:
            return await specs.measure(
                host.driver, accelerated=drivers.accelerated, version=VERSION, sandboxes=config.sandboxes,
                store="" if uploads is None else uploads.store.identity,
            )  # fmt: skip

        async def health() -> AgentHealth:
            return AgentHealth(
                version=VERSION,
                vmm=host.driver.name,
                vmm_version=await host.driver.version(),
                accelerated=drivers.accelerated,
                sandboxes=len(registry.reports()),
            )

        verifier = Verifier(credentials)
        metrics = Metrics(registry.reports)
        calls = rpc.build(registry, verifier, health, metrics.registry)
        samples = Samples()
        if config.cp_url is not None:
            sampler = Sampler(registry.reach, slots, host.clock, samples)
            changes.sampler = await stack.enter_async_context(sampler)
        # Left in the opposite order: no new calls, no more boots, sandboxes let go, which answers the last calls.
        await registry.find()
        api = await stack.enter_async_context(served(calls, paths.run))
        if uploads is not None:
            await stack.enter_async_context(uploads)
        await stack.enter_async_context(slots)
        await stack.enter_async_context(registry)
        await stack.enter_async_context(templates)
        await stack.enter_async_context(warm)
        if spares is not None:
            await stack.enter_async_context(spares)
        note = tunnel.noting(used)

        def observe(exchange: Exchange) -> None:
            metrics.observe(exchange)
            if exchange.received or exchange.sent:
                note(exchange.target)

        tls = (
            None
            if config.plain
            else tunnel.server_context(credentials.cert_pem, credentials.key_pem, paths.run)
        )
        listener = Listener(
            str(config.bind),
            tunnel.routes(registry, slots, verifier, api),
            ssl=tls,
            limits=Limits(grace=GRACE),
            trusted=True,
            observe=observe,
            moving=note,
        )
        await stack.enter_async_context(listener)
        changes.listener = listener
        if config.cp_url is not None:
            content = Content(
                address=config.address,
                started_at=time.time(),
                specs=measure,
                sandboxes=registry.reports,
                templates=registry.templates,
                snapshots=dict if uploads is None else uploads.snapshots,
                installation=specs.installation(paths.data),
            )
            control_plane = ControlPlane(config.cp_url)

            def present(fresh: Credentials) -> None:
                if tls is not None:
                    tunnel.present(tls, fresh.cert_pem, fresh.key_pem, paths.run)

            renewal = Renewal(
                control_plane, credentials, file=config.token_file, address=config.address,
                installation=content.installation, clock=clock, present=present,
            )  # fmt: skip
            changes.heart = Heart(control_plane, credentials, content, renewal)
            if uploads is not None:
                uploads.told = changes.heart.wake
            stack.enter_context(_kept(changes.heart.run(), "heartbeat"))
            stack.enter_context(_kept(Sender(control_plane, credentials, samples).run(), "send samples"))
        log.info(
            "serving", action="agent_ready", address=listener.address, vmm=host.driver.name,
            accelerated=drivers.accelerated, tls=not config.plain, sandboxes=len(registry.reports()),
        )  # fmt: skip
        yield Agent(listener.address, registry)
        log.info("stopping; the sandboxes run on", action="agent_stop")


def _slots(config: Config) -> int:
    """For the sandboxes, and beside them for what waits for one, where the network has room for more than those."""
    room = plan.capacity(config.network) - READY
    return max(config.slots, min(config.slots + config.warm + config.spares, room))


def _uploads(config: Config, files: Files) -> Uploads | None:
    """:raises OSError: the object store's folder cannot be made, or its URL makes no sense"""
    if config.object_store is None:
        return None
    try:
        objects = Objects.open(config.object_store)
    except ValueError as error:
        raise OSError(f"AGENT_OBJECT_STORE: {error}") from error
    return Uploads(Store(objects, files.paths, files.images), files)


@contextmanager
def only_one(run: Path) -> Generator[None]:
    """Two agents over one journal would fight for every VM.

    :raises AlreadyRunning:"""
    descriptor = os.open(run / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another agent runs with the data directory {run.parent}") from None
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def served(app: Any, run: Path) -> AsyncGenerator[str]:
    """The RPC on a unix socket; gives its path."""
    # Through a descriptor of the directory: a unix address has room for 108 bytes, a data directory may be longer.
    directory = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"/proc/self/fd/{directory}/agent.sock"
    (run / "agent.sock").unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        (run / "agent.sock").chmod(0o600)
        listening.listen(512)  # from here on the kernel keeps early callers waiting
        async with application.served(app, listening):
            yield path
    finally:
        listening.close()
        (run / "agent.sock").unlink(missing_ok=True)
        os.close(directory)


@contextmanager
def _kept(work: Coroutine[Any, Any, None], name: str) -> Generator[None]:
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
