"""The command `wrenn-cp`: the control plane."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import cyclopts
import structlog
import uvloop

from wrenn_server.controlplane import app, bootstrap, config, workers
from wrenn_server.controlplane.certificate import BadCertificate
from wrenn_server.controlplane.config import VERSION, Config, ConfigError
from wrenn_server.controlplane.services import audit
from wrenn_server.controlplane.workers import Place
from wrenn_server.db import embedded, migrate, pool
from wrenn_server.db.user_tokens import Purpose
from wrenn_server.linux import notify
from wrenn_server.linux.child import ChildFailed
from wrenn_server.model.errors import Internal, WrennError
from wrenn_server.obs import logs

T = TypeVar("T")

log = structlog.get_logger()
cli = cyclopts.App(name="wrenn-cp", version=VERSION, help=__doc__)
admin = cyclopts.App(name="admin", help="Administrators of the platform.")
cli.command(admin)
audit_ = cyclopts.App(name="audit", help="The audit log.")
admin.command(audit_)


@cli.default
def serve() -> int:
    """Serve until SIGTERM or SIGINT.

    Settings come from the environment and from `.env` in the working directory: DATABASE_URL, CP_LISTEN_ADDR,
    CP_HOST_AGENT_ADDR, WRENN_DATA_DIR. Without DATABASE_URL a PostgreSQL is started in the data directory.
    CP_WORKERS is the number of processes. CP_TLS_CERT and CP_TLS_KEY add a port that speaks TLS, CP_TLS_LISTEN_ADDR;
    SIGHUP reads them again.
    """
    return _command(_serve)


@cli.command(show=False)
def worker(index: int, *, count: int, parent: int, directory: Path) -> int:
    """One of several processes; started by `serve` alone."""
    place = Place(index, count, parent, directory)
    return _command(lambda settings: _work(settings, place))


@cli.command(name="migrate")
def migrate_(direction: Literal["up", "down"]) -> int:
    """Apply the database migrations that are missing, or take back the last one.

    Parameters
    ----------
    direction
        `down` deletes what the migration added, with all data in it.
    """
    return _command(lambda settings: _migrate(settings, direction))


@admin.command
def create(*, email: str, password: str | None = None) -> int:
    """Make an administrator with a team and an API key, and print them. Existing ones keep their password.

    Parameters
    ----------
    email
        The login name.
    password
        At least 8 characters; without it one is made up.
    """
    return _command(lambda settings: _create_admin(settings, email, password))


@admin.command
def activation_link(*, email: str) -> int:
    """Print the link that activates the account of somebody who has signed up, instead of a mail.

    Parameters
    ----------
    email
        The login name.
    """
    return _command(lambda settings: _link(settings, email, "activate"))


@admin.command
def reset_link(*, email: str) -> int:
    """Print a link with which a user can set a new password, instead of a mail.

    Parameters
    ----------
    email
        The login name.
    """
    return _command(lambda settings: _link(settings, email, "reset"))


@audit_.command
def verify() -> int:
    """Prove that every row of the audit log is as it was written. Prints each chain with its last number and hash: kept
    elsewhere, they prove later that nothing was cut off at the end."""
    return _command(_verify_audit)


def main() -> None:
    sys.exit(cli())


async def _serve(settings: Config) -> None:
    stop = _stop_signal()
    async with _database(settings) as url:
        if settings.database_url is None:
            await migrate.up(url)  # nobody else looks after the embedded one
        async with _serving(settings, url) as address:
            log.info("serving", action="serving", address=address, workers=settings.workers, version=VERSION)
            notify.ready()
            await stop.wait()
            log.info("stopping", action="stopping")


@asynccontextmanager
async def _serving(settings: Config, database_url: str) -> AsyncGenerator[str, None]:
    if settings.workers > 1:
        async with workers.kept(settings, database_url) as address:
            yield address
    else:
        async with app.serving(settings, database_url) as running:
            yield running.address


async def _work(settings: Config, place: Place) -> None:
    stop = _stop_signal()
    if settings.database_url is None:
        raise ConfigError("a worker needs the DATABASE_URL of its parent")
    async with app.serving(settings, settings.database_url, place):
        notify.ready()
        orphaned = asyncio.create_task(place.orphaned(), name="watch the parent")
        orphaned.add_done_callback(lambda _: stop.set())
        await stop.wait()
        orphaned.cancel()


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _migrate(settings: Config, direction: Literal["up", "down"]) -> None:
    async with _database(settings) as url:
        version = await (migrate.up(url) if direction == "up" else migrate.down(url))
        _say(f"schema {version}" if version else "the database is empty")


async def _create_admin(settings: Config, email: str, password: str | None) -> None:
    async with _database(settings) as url:
        await app.demand_schema(url)
        async with pool.connect(url, max_size=2) as db:
            made = await bootstrap.bootstrap(db, email, password)
    _say(f"email:    {made.admin_email}")
    _say(f"password: {made.admin_password or '(unchanged)'}")
    _say(f"team:     {made.team_id}")
    _say(f"api key:  {made.api_key}")


async def _link(settings: Config, email: str, purpose: Purpose) -> None:
    async with _database(settings) as url:
        await app.demand_schema(url)
        async with pool.connect(url, max_size=2) as db:
            _say(await bootstrap.link(db, settings.public_url, email, purpose))


async def _verify_audit(settings: Config) -> None:
    async with _database(settings) as url:
        await app.demand_schema(url)
        async with pool.connect(url, max_size=2) as db:
            found = await audit.verify(db)
    for head in found.heads:
        _say(f"whole   {head.chain} {head.number} {head.digest.hex()}")
    for broken in found.broken:
        _say(f"BROKEN  {broken.chain} {broken.number} {broken.what}")
    if found.broken:
        raise Internal(
            f"the audit log is not as it was written: {len(found.broken)} of "
            f"{len(found.broken) + len(found.heads)} chains are broken"
        )


@asynccontextmanager
async def _database(settings: Config) -> AsyncGenerator[str, None]:
    if settings.database_url is not None:
        yield settings.database_url
        return
    settings.data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    async with embedded.server(settings.postgres_dir) as url:
        yield url


def _command(work: Callable[[Config], Coroutine[Any, Any, None]]) -> int:
    try:
        settings = config.load(os.environ)
    except (ConfigError, OSError) as error:
        return _give_up(str(error), 2)
    logs.set_up("wrenn-cp", level=os.environ.get("WRENN_LOG_LEVEL", "info"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(settings))
    except WrennError as error:
        return _give_up(error.message + (f"\n{error.hint}" if error.hint else ""))
    except (app.WrongSchema, BadCertificate, ChildFailed, OSError) as error:
        return _give_up(str(error))
    return 0


def _give_up(message: str, code: int = 1) -> int:
    sys.stderr.write(f"wrenn-cp: {message}\n")
    return code


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
