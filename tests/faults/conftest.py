import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from faults.installation import Installation
from hostagent.process import AgentProcess

from support.postgres import database_url, postgres
from support.programs import port

__all__ = ["database_url", "port", "postgres"]


@pytest.fixture(scope="module")
def module_installation(
    guest_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Installation]:
    installation = Installation.at(AgentProcess(tmp_path_factory.mktemp("faults"), guest_images))
    asyncio.run(installation.begin())
    yield installation
    asyncio.run(installation.end())


@pytest.fixture
async def installation(module_installation: Installation) -> AsyncGenerator[Installation]:
    yield module_installation
    await module_installation.tidy()
