"""Sockets into a sandbox, in tests. envd is real; the sandbox is this machine."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent

SHELL = {"type": "start", "cmd": "/bin/sh", "args": ["-c"]}


class Place:
    """A sandbox, and sockets into it."""

    def __init__(self, world: World, id: str) -> None:
        self.world, self.id = world, id

    @asynccontextmanager
    async def open(
        self, path: str, *, noun: str = "sandboxes", headers: dict[str, str] | None = None
    ) -> AsyncGenerator[ClientConnection]:
        given = {"X-API-Key": self.world.admin.api_key} if headers is None else headers
        url = f"ws://{self.world.address}/v1/{noun}/{self.id}/{path}"
        async with connect(url, additional_headers=given, proxy=None, max_size=2**22) as socket:
            yield socket

    async def refusal(self, path: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and code of what is not even opened."""
        with pytest.raises(InvalidStatus) as refused:
            async with self.open(path, headers=headers):
                pass
        response = refused.value.response
        problem = json.loads(response.body or b"")["error"]
        assert problem["request_id"] == response.headers["x-request-id"]
        return response.status_code, problem["code"]

    async def pids(self) -> list[int]:
        answer = await self.world.api.get(f"/v1/sandboxes/{self.id}/processes")
        return [one["pid"] for one in answer.json()["processes"]]


@pytest.fixture
async def place(world: World, host_with_envd: SimulatedAgent) -> Place:
    return Place(world, (await world.new_sandbox())["id"])


async def send(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def run(socket: ClientConnection, script: str) -> None:
    await socket.send(json.dumps({**SHELL, "args": ["-c", script]}))


async def message(socket: ClientConnection) -> Any:
    """A message of JSON, or bytes."""
    async with asyncio.timeout(30):
        received = await socket.recv()
    return json.loads(received) if isinstance(received, str) else received


async def rest(socket: ClientConnection) -> list[Any]:
    """All until it is closed."""
    found: list[Any] = []
    try:
        while True:
            found.append(await message(socket))
    except ConnectionClosed:
        return found


def text_of(messages: list[Any], kind: str) -> str:
    return "".join(one["data"] for one in messages if one["type"] == kind)
