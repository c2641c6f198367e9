"""The schema's version: up, down, current. Alembic keeps count; what it runs are the SQL files in `migrations/`."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from importlib import resources
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from wrenn_server.db.pool import CONNECT_TIMEOUT, DatabaseUnavailable

_LOCK = 0x77726E6E  # any number, the same in all programs: two of them must not migrate at once


async def up(url: str, target: str = "head") -> str | None:
    """Applies what is missing. Returns the version that the database then has.

    :raises DatabaseUnavailable:
    """
    async with _migrating(url) as (connection, config):
        await connection.run_sync(_command, config, command.upgrade, target)
        return await connection.run_sync(_version)


async def down(url: str, target: str = "-1") -> str | None:
    """Takes back the last migration, or all down to `target` (`base`: everything). Deletes data.

    :raises DatabaseUnavailable:
    """
    async with _migrating(url) as (connection, config):
        if await connection.run_sync(_version) is not None:
            await connection.run_sync(_command, config, command.downgrade, target)
        return await connection.run_sync(_version)


async def current(url: str) -> str | None:
    """The database's version; None: empty.

    :raises DatabaseUnavailable:
    """
    async with _connection(url) as connection:
        return await connection.run_sync(_version)


def head() -> str:
    """The version that this program needs."""
    with _scripts() as config:
        version = ScriptDirectory.from_config(config).get_current_head()
    if version is None:
        raise RuntimeError("the package carries no migrations")
    return version


@contextlib.asynccontextmanager
async def _migrating(url: str) -> AsyncGenerator[tuple[AsyncConnection, Config], None]:
    async with _connection(url) as connection:
        with _scripts() as config:
            await connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
            await connection.commit()
            yield connection, config  # the lock ends with the connection


@contextlib.asynccontextmanager
async def _connection(url: str) -> AsyncGenerator[AsyncConnection, None]:
    async def connect() -> Any:
        # By the driver itself, so that a URL means here what it means everywhere else, `sslmode` included.
        return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        try:
            connection = await engine.connect()
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise DatabaseUnavailable(f"the database is not available: {error}") from error
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        await engine.dispose()


@contextlib.contextmanager
def _scripts() -> Generator[Config]:
    with resources.as_file(resources.files("wrenn_server.db.migrations")) as directory:
        config = Config()
        config.set_main_option("script_location", str(directory).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        yield config


def _command(connection: Connection, config: Config, act: Callable[[Config, str], None], target: str) -> None:
    config.attributes["connection"] = connection
    act(config, target)
    connection.commit()


def _version(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": "schema_version"})
    return context.get_current_revision()
