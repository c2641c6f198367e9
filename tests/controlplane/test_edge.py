"""Sandbox traffic on the public port, through the edge and the host's tunnel."""

import asyncio

import httpx2
import pytest

from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.wire import envd


@pytest.fixture
async def sandbox(world: World, host_with_envd: SimulatedAgent) -> dict[str, str]:
    return await world.new_sandbox()


@pytest.fixture
def envd_headers(sandbox: dict[str, str]) -> dict[str, str]:
    return {
        "Host": f"{envd.PORT}-{sandbox['id']}.sandboxes.example",
        "X-Access-Token": sandbox["envd_access_token"],
    }


async def get(world: World, path: str, headers: dict[str, str]) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.get(world.url + path, headers=headers)


async def test_envd_by_host_name(world: World, envd_headers: dict[str, str]) -> None:
    answer = await get(world, "/files?path=/etc/hostname", envd_headers)
    assert answer.status_code == 200
    assert answer.content


async def test_envd_by_headers(world: World, sandbox: dict[str, str]) -> None:
    headers = {
        "E2b-Sandbox-Id": sandbox["id"],
        "E2b-Sandbox-Port": str(envd.PORT),
        "X-Access-Token": sandbox["envd_access_token"],
    }
    assert (await get(world, "/envs", headers)).status_code == 200


async def test_envd_asks_for_its_token(world: World, envd_headers: dict[str, str]) -> None:
    assert (await get(world, "/envs", {**envd_headers, "X-Access-Token": "wrong"})).status_code == 401


@pytest.mark.parametrize("path", ["/init", "//init", "/./init", "/%69nit", "/freeze", "/upgrade"])
async def test_control_routes_of_envd_are_not_there(
    world: World, envd_headers: dict[str, str], path: str
) -> None:
    assert (await get(world, path, envd_headers)).status_code == 404


async def test_a_paused_sandbox_is_not_found_at_once_and_found_again(
    world: World, sandbox: dict[str, str], envd_headers: dict[str, str]
) -> None:
    assert (await get(world, "/health", envd_headers)).status_code == 204
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    gone = await get(world, "/health", envd_headers)
    assert gone.status_code == 502
    assert gone.json() == {"sandboxId": sandbox["id"], "message": "The sandbox was not found", "code": 502}
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/resume")
    assert (await get(world, "/health", envd_headers)).status_code == 204


async def test_a_killed_sandbox(world: World, sandbox: dict[str, str], envd_headers: dict[str, str]) -> None:
    assert (await get(world, "/health", envd_headers)).status_code == 204
    await world.api.delete(f"/v1/sandboxes/{sandbox['id']}")
    assert (await get(world, "/health", envd_headers)).status_code == 502


async def test_a_port_where_nobody_listens(world: World, sandbox: dict[str, str]) -> None:
    answer = await get(world, "/", {"Host": f"1-{sandbox['id']}.example"})
    assert answer.status_code == 502
    assert answer.json()["message"] == "The sandbox is running but port is not open"


async def test_a_change_by_another_control_plane_is_heard(
    world: World, sandbox: dict[str, str], envd_headers: dict[str, str]
) -> None:
    assert (await get(world, "/health", envd_headers)).status_code == 204
    gone = world.cp.routes.on_gone
    heard = asyncio.Event()
    gone.append(lambda sandbox_id: heard.set())
    await world.cp.db.execute("UPDATE sandboxes SET state = 'paused' WHERE id = $1", sandbox["id"])
    async with asyncio.timeout(10):
        await heard.wait()
    assert (await get(world, "/health", envd_headers)).status_code == 502
