from collections.abc import AsyncIterator

import httpx2
import pytest

from support.e2b import E2b, client
from support.postgres import database_url, db, empty_database, postgres
from support.simulated import World, host, host_with_envd, world

__all__ = ["database_url", "db", "empty_database", "host", "host_with_envd", "postgres", "world"]


@pytest.fixture
async def e2b(world: World) -> AsyncIterator[E2b]:
    """With the administrator's team's key, in E2B's form."""
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False, timeout=60) as http:
        yield client(world, http)
