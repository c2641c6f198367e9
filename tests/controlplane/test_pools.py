"""Pools: bought and changed by the team, and what a start does when there is no room."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from support.e2b import client as e2b_client
from support.people import Mailbox, mailbox, sign_up
from support.simulated import World, control_plane, eventually
from wrenn_server.controlplane.services import admission
from wrenn_server.controlplane.services.admission import enough
from wrenn_server.db import pools as db_pools
from wrenn_server.db import teams as db_teams
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.ids import new_team_id
from wrenn_server.model.pool import Capacity, PoolExhausted

__all__ = ["mailbox"]

SMALL = {"vcpus": 2, "memory_mb": 1024, "disk_mb": 20480}


async def buy(world: World, **size: Any) -> dict[str, Any]:
    answer = await world.user.put("/v1/pool", {**SMALL, **size})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refusal(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    return error


async def queued(world: World, count: int) -> None:
    async def check() -> bool:
        return (await world.user.get("/v1/pool")).json()["waiting"] == count

    await eventually(check)


async def idle_since(world: World, sandbox_id: str, minutes: int) -> None:
    at = datetime.now(UTC) - timedelta(minutes=minutes)
    await world.cp.db.execute("UPDATE sandboxes SET last_active_at = $2 WHERE id = $1", sandbox_id, at)


# What is bought


async def test_snapshots_may_take_as_much_as_the_pools_disk(world: World, host: SimulatedAgent) -> None:
    await buy(world, disk_mb=5120)
    path = f"/v1/sandboxes/{(await world.new_sandbox())['id']}/snapshots"
    first = await world.api.post(path, {})
    assert first.status_code == 201, first.text

    async def take(mb: int) -> None:
        await world.cp.db.execute("UPDATE snapshots SET size_bytes = $1::bigint << 20", mb)

    await take(5120)
    error = await refusal(await world.api.post(path, {}), 409, "snapshot_quota_reached")
    assert "5120 MiB" in error["message"]
    assert len((await world.api.get("/v1/snapshots")).json()) == 1
    await take(5119)
    answers = await asyncio.gather(*(world.api.post(path, {}) for _ in range(4)))
    # One that is being made counts with its memory, so they do not all pass at once.
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    await buy(world, disk_mb=51200)
    assert (await world.api.post(path, {})).status_code == 201
    assert (await world.api.delete(f"/v1/snapshots/{first.json()['id']}")).status_code == 204


async def test_without_a_pool_nothing_is_bounded(world: World, host: SimulatedAgent) -> None:
    await world.new_sandbox(vcpus=2, memory_mb=1024)
    found = (await world.user.get("/v1/pool")).json()
    assert found == {
        "unlimited": True, "drawn": {"vcpus": 2, "memory_mb": 1024, "disk_mb": 5120}, "waiting": 0, "spend_limit": None,
        "version": 0,
    }  # fmt: skip


async def test_a_pool_grows_and_shrinks_and_remembers(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    opened = await buy(world)
    assert opened["drawn"] == {"vcpus": 1, "memory_mb": 512, "disk_mb": 5120}
    assert opened["free"] == {"vcpus": 1, "memory_mb": 512, "disk_mb": 15360}
    assert (await buy(world, vcpus=9, version=1))["version"] == 2
    await refusal(await world.user.put("/v1/pool", {**SMALL, "version": 1}), 409, "pool_changed")
    error = await refusal(await world.user.put("/v1/pool", {**SMALL, "vcpus": 0}), 409, "pool_below_draw")
    assert "1 vCPU more" in error["message"]
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    assert (await buy(world, vcpus=0))["free"]["vcpus"] == 0
    changes = (await world.user.get("/v1/pool/history")).json()
    assert [(change["kind"], change["vcpus"], change["version"]) for change in changes] == [
        ("resize", 0, 3),
        ("resize", 9, 2),
        ("open", 2, 1),
    ]
    assert changes[0]["changed_by"].startswith("usr_")
    page = await world.user.get("/v1/pool/history?limit=2")
    rest = await world.user.get(f"/v1/pool/history?limit=2&cursor={page.headers['x-next-cursor']}")
    assert page.json() + rest.json() == changes
    assert "x-next-cursor" not in rest.headers


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"vcpus": 1, "memory_mb": 1},
        {"plan": "p", "vcpus": 1},
        {**SMALL, "vcpus": -1},
        {**SMALL, "vcpus": 2**31},
        {**SMALL, "spend_limit": -1},
        {**SMALL, "vcpus": None},
    ],
)
async def test_what_is_no_size(world: World, body: dict[str, Any]) -> None:
    await refusal(await world.user.put("/v1/pool", body, wrong=True), 400, "invalid_request")
    assert (await world.user.get("/v1/pool")).json()["unlimited"]


async def test_a_deleted_team_has_no_pool(world: World, mailbox: Mailbox) -> None:
    person = await sign_up(world, mailbox, "ada@example.com")
    other = (await person.client.post("/v1/teams", {"name": "other"})).json()["id"]
    path = f"/v1/admin/teams/{other}/pool"
    assert (await world.user.put(path, SMALL)).status_code == 200
    assert (await person.client.delete(f"/v1/teams/{other}")).status_code < 300
    changes = await db_pools.changes(world.cp.db, other, before=None, limit=9)
    assert [change.kind for change in changes] == ["close", "open"]
    assert changes[0].changed_by == person.user_id
    await refusal(await world.user.put(path, SMALL), 404, "not_found")


async def test_a_key_of_one_sandbox_pauses_no_others(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    made = await world.user.post(f"/v1/sandboxes/{sandbox['id']}/api-keys", {})
    assert made.status_code == 201, made.text
    key = world.api.with_key(made.json()["key"])
    await world.api.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    answer = await key.post(f"/v1/sandboxes/{sandbox['id']}/resume", {"make_room": True})
    await refusal(answer, 403, "scope_required")
    assert (await key.post(f"/v1/sandboxes/{sandbox['id']}/resume")).status_code == 200


async def test_plans(world: World) -> None:
    answer = await world.user.put("/v1/admin/plans/small", {**SMALL, "default": True})
    assert answer.json() == {"name": "small", **SMALL, "spend_limit": None, "default": True}
    assert (await world.api.get("/v1/plans")).json() == [answer.json()]
    assert (await world.user.put("/v1/pool", {"plan": "small"})).json()["bought"] == SMALL
    team_id = new_team_id()
    await db_teams.insert(world.cp.db, id=team_id, name="new", slug="new")
    path = f"/v1/admin/teams/{team_id}/pool"
    assert (await world.user.get(path)).json()["bought"] == SMALL
    assert (await world.user.delete(path)).status_code == 204
    assert (await world.user.get(path)).json()["unlimited"]
    await refusal(await world.user.delete(path), 404, "not_found")
    assert (await world.user.put(path, SMALL)).json()["version"] == 1
    assert (await world.user.delete("/v1/admin/plans/small")).status_code == 204
    await refusal(await world.user.put("/v1/pool", {"plan": "small"}), 404, "plan_not_found")
    await refusal(await world.user.put(f"/v1/admin/teams/{new_team_id()}/pool", SMALL), 404, "not_found")


async def test_caps(world: World, host: SimulatedAgent) -> None:
    by_key = {"key_id": (await world.user.get("/v1/api-keys")).json()[0]["id"]}
    by_label = {"label": {"name": "job", "value": "ci"}}
    await refusal(await world.user.post("/v1/pool/caps", {**by_key, "vcpus": 1}), 404, "not_found")
    await buy(world, vcpus=9, memory_mb=9000)
    made = await world.user.post("/v1/pool/caps", {**by_label, "vcpus": 1})
    assert made.status_code == 200
    await world.new_sandbox(metadata={"job": "ci"})
    error = await refusal(
        await world.api.post("/v1/sandboxes", {"metadata": {"job": "ci"}}), 409, "pool_exhausted"
    )
    assert made.json()["id"] in error["message"]
    await refusal(await world.user.post("/v1/pool/caps", {**by_label, "vcpus": 0}), 409, "pool_below_draw")
    again = await world.user.post("/v1/pool/caps", {**by_label, "vcpus": 2, "memory_mb": 9999})
    assert again.json()["id"] == made.json()["id"]
    await world.user.post("/v1/pool/caps", {**by_key, "vcpus": 2})
    await world.new_sandbox(metadata={"job": "ci"})
    await refusal(await world.api.post("/v1/sandboxes"), 409, "pool_exhausted")  # of the key
    caps = (await world.user.get("/v1/pool/caps")).json()
    assert [cap["drawn"]["vcpus"] for cap in caps] == [2, 2]
    for cap in caps:
        assert (await world.user.delete(f"/v1/pool/caps/{cap['id']}")).status_code == 204
    await world.new_sandbox(metadata={"job": "ci"})
    await refusal(await world.user.delete(f"/v1/pool/caps/{caps[0]['id']}"), 404, "not_found")
    for wrong in ({}, {**by_key, **by_label, "vcpus": 1}, by_key):
        await refusal(await world.user.post("/v1/pool/caps", wrong), 400, "invalid_request")


# When it is full


async def test_at_once_with_what_is_missing(world: World, host: SimulatedAgent) -> None:
    await buy(world)
    ids = [(await world.new_sandbox(on_timeout="pause"))["id"] for _ in range(2)]
    await idle_since(world, ids[1], 5)
    error = await refusal(await world.api.post("/v1/sandboxes"), 409, "pool_exhausted")
    assert "1 vCPU and 512 MiB of memory more than is free" in error["message"]
    assert ids[1] in error["hint"]
    assert ids[0] not in error["hint"]
    error = await refusal(await world.api.post("/v1/sandboxes", {"vcpus": 3}), 409, "pool_exhausted")
    assert "larger" in error["hint"]
    await world.api.post(f"/v1/sandboxes/{ids[0]}/pause")
    await world.new_sandbox()
    await refusal(await world.api.post(f"/v1/sandboxes/{ids[0]}/resume"), 409, "pool_exhausted")
    assert await world.state(ids[0]) == "paused"
    await refusal(await world.api.post(f"/v1/sandboxes/{ids[1]}/fork"), 409, "pool_exhausted")
    assert len(host.host.held) == 3


async def test_make_room_pauses_the_longest_idle_that_allows_it(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=3, memory_mb=4096)
    mine = (await world.new_sandbox())["id"]
    idle, busy = [(await world.new_sandbox(on_timeout="pause"))["id"] for _ in range(2)]
    for sandbox_id, minutes in ((mine, 9), (idle, 5), (busy, 1)):
        await idle_since(world, sandbox_id, minutes)
    made = await world.new_sandbox(make_room=True)
    states = [await world.state(id) for id in (mine, idle, busy, made["id"])]
    assert states == ["running", "paused", "running", "running"]
    answer = await world.api.post(f"/v1/sandboxes/{idle}/resume", {"make_room": True})
    assert answer.status_code == 200
    assert await world.state(busy) == "paused"


async def test_make_room_touches_nothing_when_it_would_not_be_enough(
    world: World, host: SimulatedAgent
) -> None:
    await buy(world, vcpus=3, memory_mb=4096)
    await world.new_sandbox(vcpus=2)
    idle = (await world.new_sandbox(on_timeout="pause"))["id"]
    body = {"vcpus": 2, "make_room": True}
    await refusal(await world.api.post("/v1/sandboxes", body), 409, "pool_exhausted")
    forked = await world.api.post(f"/v1/sandboxes/{idle}/fork", {"make_room": True})
    await refusal(forked, 409, "pool_exhausted")  # its own source is not paused for it
    assert await world.state(idle) == "running"
    await buy(world, vcpus=9, memory_mb=4096, disk_mb=12000)
    body = {"make_room": True, "disk_mb": 9000}
    await refusal(await world.api.post("/v1/sandboxes", body), 409, "pool_exhausted")
    assert await world.state(idle) == "running", "a pause frees no disk"


def test_enough() -> None:
    idle = [("a", Capacity(1, 512)), ("b", Capacity(2, 512)), ("c", Capacity(1, 512))]
    assert enough(idle, Capacity(1, 0)) == ["a"]
    assert enough(idle, Capacity(0, 1024)) == ["a", "b"]
    assert enough(idle, Capacity(4, 0)) == ["a", "b", "c"]
    assert enough(idle, Capacity(5, 0)) == []
    assert enough([], Capacity()) == []


async def test_the_queue_is_fair(world: World, host: SimulatedAgent) -> None:
    await buy(world)
    running = [await world.new_sandbox() for _ in range(2)]
    order: list[str] = []

    async def create(name: str, vcpus: int) -> None:
        answer = await world.api.post(
            "/v1/sandboxes", {"wait_sec": 60, "vcpus": vcpus, "memory_mb": 128, "metadata": {"name": name}}
        )
        assert answer.status_code == 201, answer.text
        order.append(name)

    async with asyncio.TaskGroup() as group:
        for n, (name, vcpus) in enumerate((("large", 2), ("small", 1)), 1):
            group.create_task(create(name, vcpus))
            await queued(world, n)
        await world.api.delete(f"/v1/sandboxes/{running[0]['id']}")  # enough for the small one alone
        error = await refusal(await world.api.post("/v1/sandboxes"), 409, "pool_exhausted")
        assert "2 requests wait" in error["message"]
        assert order == []
        await world.api.delete(f"/v1/sandboxes/{running[1]['id']}")
        await queued(world, 1)
        await buy(world, vcpus=3)
    assert order == ["large", "small"]
    assert (await world.user.get("/v1/pool")).json()["waiting"] == 0


async def test_whose_time_is_over_leaves_the_queue(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=1)
    await world.new_sandbox()
    await refusal(await world.api.post("/v1/sandboxes", {"wait_sec": 1}), 409, "pool_exhausted")
    assert (await world.user.get("/v1/pool")).json()["waiting"] == 0


async def test_a_client_that_goes_away_leaves_the_queue(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=1)
    running = await world.new_sandbox()
    waiting = asyncio.create_task(world.api.post("/v1/sandboxes", {"wait_sec": 60}))
    await queued(world, 1)
    waiting.cancel()
    await queued(world, 0)
    await world.api.delete(f"/v1/sandboxes/{running['id']}")
    assert (await world.user.get("/v1/pool")).json()["drawn"]["vcpus"] == 0


async def test_waiting_on_another_control_plane_and_after_the_death_of_one(
    world: World, host: SimulatedAgent, database_url: str
) -> None:
    await buy(world, vcpus=1)
    running = await world.new_sandbox()
    dead = await db_pools.join(world.cp.db, world.admin.team_id, None)  # its control plane will not be back
    async with control_plane(database_url) as other:
        waiting = asyncio.create_task(other.api.post("/v1/sandboxes", {"wait_sec": 60}))
        await queued(world, 2)
        await other.api.delete(f"/v1/sandboxes/{running['id']}")
        assert not waiting.done()
        await world.cp.db.execute(
            "UPDATE pool_waiters SET seen_at = now() - interval '16 s' WHERE id = $1", dead
        )
        assert (await waiting).status_code == 201


async def test_who_comes_again_with_its_key_has_its_place(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=1)
    running = await world.new_sandbox()
    # As if its control plane had died while it waited
    await db_pools.join(world.cp.db, world.admin.team_id, "again")
    late = asyncio.create_task(world.api.post("/v1/sandboxes", {"wait_sec": 60}))
    await queued(world, 2)
    first = asyncio.create_task(
        world.api.post("/v1/sandboxes", {"wait_sec": 60}, headers={"Idempotency-Key": "again"})
    )
    await world.api.delete(f"/v1/sandboxes/{running['id']}")
    made = (await first).json()
    assert not late.done()
    await world.api.delete(f"/v1/sandboxes/{made['id']}")
    assert (await late).status_code == 201


async def test_who_waits_for_a_cap_lets_others_pass(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=9, memory_mb=9000)
    label = {"name": "job", "value": "ci"}
    cap = (await world.user.post("/v1/pool/caps", {"label": label, "vcpus": 1})).json()
    await world.new_sandbox(metadata={"job": "ci"})
    waiting = asyncio.create_task(
        world.api.post("/v1/sandboxes", {"metadata": {"job": "ci"}, "wait_sec": 60})
    )
    await queued(world, 1)

    async def passes() -> bool:
        return (await world.api.post("/v1/sandboxes")).status_code == 201

    await eventually(passes)  # until the database knows what it waits for
    assert not waiting.done()
    await world.user.delete(f"/v1/pool/caps/{cap['id']}")
    assert (await waiting).status_code == 201


async def test_a_pool_of_the_hosts_own_size_is_never_overdrawn(
    world: World, host: SimulatedAgent, database_url: str
) -> None:
    await buy(world, vcpus=3, memory_mb=9000, disk_mb=90000)
    async with control_plane(database_url) as other:
        apis = [world.api.with_key(other.admin.api_key), other.api]
        answers = await asyncio.gather(*(apis[n % 2].post("/v1/sandboxes") for n in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 7
    assert len(host.host.held) == 3


async def test_traffic_does_not_wake_what_does_not_fit(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=1)
    sleeping = await world.new_sandbox(auto_resume=True, on_timeout="pause", timeout_sec=60)
    await world.api.post(f"/v1/sandboxes/{sleeping['id']}/pause")
    await world.new_sandbox()
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False) as http:
        answer = await http.get("/", headers={"Host": f"8080-{sleeping['id']}.x"})
    assert answer.status_code == 409
    assert "pool" in answer.text


async def test_e2b_is_told_in_its_form(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=1)
    async with httpx2.AsyncClient(base_url=world.url, trust_env=False, timeout=60) as http:
        e2b = e2b_client(world, http)
        made = await e2b.post("/v2/sandboxes", {"templateID": "minimal"})
        assert made.status_code == 201, made.text
        answer = await e2b.post("/v2/sandboxes", {"templateID": "minimal"})
    assert (answer.status_code, answer.json()["code"]) == (429, 429)
    assert answer.json()["error_code"] == "pool_exhausted"
    assert answer.headers["should-retry"] == "false"
    assert "retry-after" not in answer.headers


def test_the_refusal_says_what_is_missing() -> None:
    assert str(Capacity(1, 2, 3)) == "1 vCPU, 2 MiB of memory and 3 MiB of disk"
    assert str(Capacity(2)) == "2 vCPUs"
    assert str(Capacity()) == "nothing"
    assert PoolExhausted(Capacity(), ahead=1).message.endswith("; 1 request waits for it already")


def test_a_place_outlives_its_renewals() -> None:
    assert admission._RENEW_SEC * 2 < db_pools.LEASE_SEC
