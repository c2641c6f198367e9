"""The description that is checked in is that of the code."""

from pathlib import Path

from httpx2 import AsyncClient

from support.api import DESCRIPTION
from support.simulated import World
from wrenn_server.controlplane.api import openapi
from wrenn_server.controlplane.api.app import litestar

FILE = Path(__file__).resolve().parents[2] / "api/openapi.json"


def test_the_file_is_up_to_date() -> None:
    # `python -m wrenn_server.controlplane.api.openapi api/openapi.json` writes it anew.
    assert FILE.read_text() == openapi.as_text(openapi.describe(litestar(described=True)))


async def test_it_is_served(world: World) -> None:
    async with AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{world.url}/openapi.json")).json() == DESCRIPTION


def test_every_operation_is_described() -> None:
    names = [
        operation["operationId"] for path in DESCRIPTION["paths"].values() for operation in path.values()
    ]
    assert len(set(names)) == len(names)
    for path in DESCRIPTION["paths"].values():
        for operation in path.values():
            assert operation.get("description"), operation["operationId"]
            assert operation["responses"]["default"]
