"""A real PostgreSQL for the session, and a database of its own for every test, copied from a migrated template."""

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from wrenn_server.db import embedded, migrate, pool
from wrenn_server.db.pool import Database

TEMPLATE = "wrenn_template"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of the server's own database; ends with the session."""
    with tempfile.TemporaryDirectory(prefix="wrenn-test-pg-") as directory:
        Path(directory).chmod(0o711)
        loop = asyncio.new_event_loop()
        server = embedded.server(Path(directory) / "postgres", uid=29999)
        url = loop.run_until_complete(server.__aenter__())
        try:
            loop.run_until_complete(make_template(url))
            yield url
        finally:
            loop.run_until_complete(server.__aexit__(None, None, None))
            loop.close()


@pytest.fixture
async def empty_database(postgres: str) -> AsyncIterator[str]:
    """URL of a database without any schema."""
    async with fresh(postgres, "template1") as url:
        yield url


@pytest.fixture
async def database_url(postgres: str) -> AsyncIterator[str]:
    """URL of a database with the newest schema."""
    async with fresh(postgres, TEMPLATE) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with pool.connect(database_url) as opened:
        yield opened


@asynccontextmanager
async def fresh(postgres: str, template: str) -> AsyncGenerator[str, None]:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield postgres.replace("/postgres?", f"/{name}?")
    finally:
        await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def make_template(url: str) -> None:
    await _execute(url, f"CREATE DATABASE {TEMPLATE}")
    await migrate.up(url.replace("/postgres?", f"/{TEMPLATE}?"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
