"""Health, metrics, request ids, and what is noted of use."""

import asyncio
from contextlib import AsyncExitStack, suppress

import httpx2

from support.simulated import World
from wrenn_server.controlplane.app import CONNECTIONS
from wrenn_server.hostagent.simulated import SimulatedAgent


async def fetch(world: World, path: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.get(world.url + path, headers=headers)


async def test_health(world: World) -> None:
    answer = await fetch(world, "/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


async def test_ready_while_the_database_answers(world: World) -> None:
    assert (await fetch(world, "/ready")).status_code == 200
    async with AsyncExitStack() as held:
        with suppress(TimeoutError):  # once there are no more
            for _ in range(CONNECTIONS):
                async with asyncio.timeout(1):
                    await held.enter_async_context(world.cp.db.transaction())
        answer = await fetch(world, "/ready")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert (await fetch(world, "/health")).status_code == 200
    assert (await fetch(world, "/ready")).status_code == 200


async def test_who_has_the_description_is_told_so(world: World) -> None:
    first = await fetch(world, "/openapi.json")
    tag = first.headers["etag"]
    for known in (tag, f'"another", W/{tag}', "*"):
        again = await fetch(world, "/openapi.json", **{"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
    assert (await fetch(world, "/openapi.json", **{"If-None-Match": '"another"'})).content == first.content


async def test_metrics_count_requests(world: World) -> None:
    await fetch(world, "/v1/sandboxes")
    text = (await fetch(world, "/metrics")).text
    assert 'wrenn_edge_requests_total{status="4xx",to="api"} 1.0' in text
    assert "process_resident_memory_bytes" in text


async def test_no_client_chooses_its_request_id(world: World) -> None:
    answer = await fetch(world, "/health", **{"X-Request-Id": "mine"})
    assert answer.headers["x-request-id"] != "mine"
    assert len(answer.headers.get_list("x-request-id")) == 1


async def test_use_is_noted(world: World, host: SimulatedAgent) -> None:
    await world.cp.seen.write(world.cp.db)
    sandbox = await world.new_sandbox()
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/exec", {"cmd": "true"})
    await world.cp.seen.write(world.cp.db)
    (key,) = (await world.user.get("/v1/api-keys")).json()
    assert key["last_used_at"] >= key["created_at"]
    seen = (await world.api.get(f"/v1/sandboxes/{sandbox['id']}")).json()
    assert seen["last_active_at"] > sandbox["last_active_at"]
