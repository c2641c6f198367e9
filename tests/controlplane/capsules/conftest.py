from collections.abc import AsyncIterator

import httpx2
import pytest

from support.capsules import Capsules
from support.postgres import database_url, db, empty_database, postgres
from support.simulated import World, host, host_with_envd, world

__all__ = ["database_url", "db", "empty_database", "host", "host_with_envd", "postgres", "world"]


@pytest.fixture
async def capsules(world: World) -> AsyncIterator[Capsules]:
    """With the key of the administrator's team."""
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False, timeout=60) as http:
        yield Capsules(http, {"X-API-Key": world.admin.api_key})
