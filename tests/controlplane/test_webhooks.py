"""Events come to a team's own endpoints: signed, at least once, and to one never because of another."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.endpoint import Endpoint, Received, endpoint
from support.simulated import World, control_plane, eventually
from wrenn_server.controlplane.reconcile import webhooks as courier
from wrenn_server.controlplane.services import deliveries
from wrenn_server.db import deliveries as db_deliveries
from wrenn_server.db.pool import Executor
from wrenn_server.hostagent.simulated import SimulatedAgent


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with control_plane(database_url, webhooks_private=True) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[Endpoint]:
    async with endpoint() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "FIRST_SEC", 0.02)


async def webhook(world: World, server: Endpoint, **wanted: Any) -> dict[str, Any]:
    answer = await world.user.post("/v1/webhooks", {"url": f"{server.url}/hook?a=b", **wanted})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def listed(world: World, id: str, state: str | None = None) -> list[dict[str, Any]]:
    query = f"?state={state}" if state else ""
    return (await world.api.get(f"/v1/channels/{id}/deliveries{query}")).json()


async def settled(world: World, id: str, count: int, state: str = "delivered") -> list[dict[str, Any]]:
    async def all_are() -> bool:
        return len(await listed(world, id, state)) >= count

    await eventually(all_are)
    return await listed(world, id, state)


def signature(secret: str, got: Received) -> str:
    """As docs/events.md says."""
    content = got.headers["x-wrenn-timestamp"].encode() + b"." + got.body
    return "sha256=" + hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


async def test_an_event_comes_signed(world: World, host: SimulatedAgent, server: Endpoint) -> None:
    made = await webhook(world, server, events=["sandbox.create", "sandbox.destroy"])
    id = (await world.new_sandbox())["id"]
    await world.api.post(f"/v1/sandboxes/{id}/pause")
    await world.api.delete(f"/v1/sandboxes/{id}")
    first, second = await server.wait(2)
    events = sorted((json.loads(got.body) for got in (first, second)), key=lambda event: event["timestamp"])
    assert [event["type"] for event in events] == ["sandbox.create", "sandbox.destroy"]
    assert events[0]["resource"]["id"] == id
    assert (first.method, first.target) == ("POST", "/hook?a=b")
    assert first.headers["content-type"] == "application/json"
    assert first.headers["x-wrenn-signature"] == signature(made["secret"], first)
    log = await settled(world, made["id"], 2)
    assert {first.headers["x-wrenn-delivery"], second.headers["x-wrenn-delivery"]} == {d["id"] for d in log}
    assert {d["event_id"] for d in log} == {event["id"] for event in events}
    detail = (await world.api.get(f"/v1/channels/{made['id']}/deliveries/{log[0]['id']}")).json()
    assert [(a["number"], a["status"], a["answer"]) for a in detail["log"]] == [(1, 200, "ok")]
    assert len(server.received) == 2, "a pause is not what it wants to hear of"


async def test_what_is_not_taken_comes_again(world: World, host: SimulatedAgent, server: Endpoint) -> None:
    made = await webhook(world, server, events=["sandbox.create"])
    server.answers += [(500, b"oh"), (302, b""), (200, b"fine")]
    await world.new_sandbox()
    got = await server.wait(3)
    assert len({g.headers["x-wrenn-delivery"] for g in got}) == 1
    assert len({g.body for g in got}) == 1
    [log] = await settled(world, made["id"], 1)
    detail = (await world.api.get(f"/v1/channels/{made['id']}/deliveries/{log['id']}")).json()
    assert [(a["status"], a.get("error")) for a in detail["log"]] == [
        (500, "answered 500"),
        (302, "answered 302; redirects are not followed"),
        (200, None),
    ]
    assert detail["log"][0]["answer"] == "oh"


async def test_what_is_never_taken_fails_and_can_be_sent_again(
    world: World, host: SimulatedAgent, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "TRIES", 3)
    made = await webhook(world, server, events=["sandbox.create"])
    server.answers += [(503, b"")] * 4
    await world.new_sandbox()
    [failed] = await settled(world, made["id"], 1, "failed")
    assert failed["attempts"] == 3
    path = f"/v1/channels/{made['id']}/deliveries/{failed['id']}"
    assert (await world.user.post(f"{path}/redeliver")).status_code == 202
    [done] = await settled(world, made["id"], 1)
    assert done["attempts"] == 5, "it counts anew, and what was tried stays on record"
    assert [a["number"] for a in (await world.api.get(path)).json()["log"]] == [1, 2, 3, 4, 5]
    assert (await world.user.post(f"{path}/redeliver")).status_code == 202
    await server.wait(6)


async def test_a_slow_one_holds_nobody_up(
    database_url: str, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each control plane by itself."""
    monkeypatch.setattr(courier, "AT_ONCE", 6)
    released = asyncio.Event()

    async def hang(_: Received) -> None:
        await released.wait()

    async with (
        endpoint() as slow,
        control_plane(database_url, planes=1, webhooks_private=True) as world,
        world.host(),
    ):
        slow.before = hang
        await webhook(world, slow, name="slow", events=["sandbox.create"])
        await webhook(world, server, name="quick", events=["sandbox.create"])
        for _ in range(8):
            await world.new_sandbox()
        await server.wait(8)
        assert len(slow.received) <= courier.PER_CHANNEL + 1
        released.set()
        await slow.wait(8)


async def test_two_control_planes_never_make_the_same_attempt(database_url: str, server: Endpoint) -> None:
    async with (
        control_plane(database_url, webhooks_private=True),
        control_plane(database_url, webhooks_private=True) as two,
        two.host(),
    ):
        made = await webhook(two, server, events=["sandbox.create"])
        await asyncio.gather(*(two.api.post("/v1/sandboxes", {}) for _ in range(12)))
        await settled(two, made["id"], 12)
    ids = [got.headers["x-wrenn-delivery"] for got in server.received]
    assert len(ids) == len(set(ids)) == 12


async def test_what_somebody_died_over_is_sent_by_another(
    world: World, host: SimulatedAgent, server: Endpoint
) -> None:
    made = await webhook(world, server, events=["sandbox.create"])
    server.answers.append((500, b""))
    await world.cp.db.execute(
        "ALTER TABLE deliveries ALTER COLUMN next_at SET DEFAULT now() + interval '1 hour'"
    )
    await world.new_sandbox()

    async def there() -> bool:
        return bool(await listed(world, made["id"], "pending"))

    await eventually(there)
    taken = "UPDATE deliveries SET attempts = attempts + 1, next_at = now() + $1 * interval '1 s'"
    await world.cp.db.execute(taken, 0.1)  # as if somebody had taken it and died: its lease ends soon
    world.cp.feed.deliveries.set()
    [done] = await settled(world, made["id"], 1)
    assert done["attempts"] == 3


async def test_who_is_too_late_writes_nothing(world: World, host: SimulatedAgent, server: Endpoint) -> None:
    made = await webhook(world, server, events=["sandbox.create"])
    await world.new_sandbox()
    [done] = await settled(world, made["id"], 1)
    row = await db_deliveries.get(world.cp.db, made["id"], done["id"])
    assert row is not None
    await world.cp.db.execute(
        "UPDATE deliveries SET state = 'pending', attempts = 7, next_at = now() + interval '1 h'"
    )
    late = {"duration_ms": 1, "status": 500, "error": "late", "answer": ""}
    await db_deliveries.settle(world.cp.db, row, **late, again_sec=None)  # pyright: ignore[reportArgumentType] - the keywords
    assert [d["attempts"] for d in await listed(world, made["id"], "pending")] == [7]


async def test_a_secret_is_replaced_without_a_gap(
    world: World, host: SimulatedAgent, server: Endpoint
) -> None:
    made = await webhook(world, server, secret="the-secret-of-before")
    assert made["secret"] == "the-secret-of-before"
    path = f"/v1/webhooks/{made['id']}"
    rotated = (await world.user.post(f"{path}/rotate", {"valid_for_sec": 600})).json()
    assert rotated["secret"] != made["secret"]
    assert "secret" not in (await world.user.get(path)).json()
    assert (await world.user.get(path)).json()["old_secret_until"]
    await world.user.post(f"/v1/channels/{made['id']}/test")
    [got] = await server.wait(1)
    expected = [signature(secret, got) for secret in (rotated["secret"], "the-secret-of-before")]
    assert got.headers["x-wrenn-signature"] == ", ".join(expected)
    again = (await world.user.post(f"{path}/rotate", {"valid_for_sec": 0})).json()
    await world.user.post(f"/v1/channels/{made['id']}/test")
    last = (await server.wait(2))[1]
    assert last.headers["x-wrenn-signature"] == signature(again["secret"], last)


async def test_the_test_button(world: World, server: Endpoint) -> None:
    made = await webhook(world, server)
    server.answers += [(200, b"welcome"), (404, b"who?")]
    done = (await world.user.post(f"/v1/channels/{made['id']}/test")).json()
    assert (done["state"], done["type"], done["log"][0]["answer"]) == ("delivered", "test", "welcome")
    failed = (await world.user.post(f"/v1/channels/{made['id']}/test")).json()
    assert (failed["state"], failed["log"][0]["error"]) == ("failed", "answered 404")
    path = f"/v1/channels/{made['id']}/deliveries/{failed['id']}/redeliver"
    assert (await world.user.post(path)).status_code == 409
    assert json.loads(server.received[0].body)["type"] == "test"
    assert server.received[0].headers["x-wrenn-signature"] == signature(made["secret"], server.received[0])


async def test_private_addresses_are_refused(database_url: str, server: Endpoint) -> None:
    async with control_plane(database_url) as world, world.host():
        made = await webhook(world, server)
        failed = (await world.user.post(f"/v1/channels/{made['id']}/test")).json()
        assert failed["state"] == "failed"
        assert failed["log"][0]["error"] == "127.0.0.1 does not lead to the public internet alone"
        assert not server.received


async def test_one_that_is_off_is_told_nothing(world: World, host: SimulatedAgent, server: Endpoint) -> None:
    off = await webhook(world, server, name="off")
    changed = await world.user.request("PATCH", f"/v1/webhooks/{off['id']}", json={"enabled": False})
    assert changed.json()["enabled"] is False
    async with endpoint() as other:
        made = await webhook(world, other, name="on", events=["sandbox.create"])
        await world.new_sandbox()
        await settled(world, made["id"], 1)
        await world.user.delete(f"/v1/webhooks/{made['id']}")
        assert (await world.user.get(f"/v1/webhooks/{made['id']}")).status_code == 404
        assert (await world.api.get(f"/v1/channels/{made['id']}/deliveries")).status_code == 404
    assert await listed(world, off["id"]) == []


async def test_what_was_on_its_way_waits_while_it_is_off(
    world: World, host: SimulatedAgent, server: Endpoint
) -> None:
    made = await webhook(world, server, events=["sandbox.create"])
    path = f"/v1/webhooks/{made['id']}"

    async def switch_off(_: Received) -> None:
        await world.user.request("PATCH", path, json={"enabled": False})
        server.before = None

    server.before = switch_off
    server.answers.append((500, b""))
    await world.new_sandbox()
    [first] = await server.wait(1)

    async def tried() -> bool:
        return (await listed(world, made["id"]))[0]["attempts"] > 1

    await eventually(tried)
    assert len(server.received) == 1
    await world.user.request("PATCH", path, json={"enabled": True})
    [_, second] = await server.wait(2)
    assert first.body == second.body


async def test_what_becomes_due_while_the_courier_looks(
    world: World, host: SimulatedAgent, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at what is due and the one at what will be: it does not wait for the next round."""
    due_in = db_deliveries.due_in

    async def late(db: Executor, **options: Any) -> float | None:
        if (due := await due_in(db, **options)) is not None and 0 < due < 1:
            await db.fetchval("SELECT pg_sleep($1::float8 + 0.01)", due)
        return await due_in(db, **options)

    monkeypatch.setattr(db_deliveries, "due_in", late)
    await webhook(world, server, events=["sandbox.create"])
    server.answers.append((500, b""))
    await world.new_sandbox()
    first, second = await server.wait(2)
    assert first.body == second.body


async def test_changes(world: World, server: Endpoint) -> None:
    made = await webhook(world, server, name=" My Hook ")
    assert (made["name"], made["events"]) == ("my-hook", ["*"])
    other = await webhook(world, server)
    assert other["name"].startswith("127.0.0.1:")
    taken = await world.user.post("/v1/webhooks", {"url": server.url, "name": "my hook"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name_taken")
    path = f"/v1/webhooks/{other['id']}"
    taken = await world.user.request("PATCH", path, json={"name": "my-hook"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name_taken")
    await world.user.request("PATCH", path, json={"url": f"{server.url}/new", "events": ["snapshot.create"]})
    found = (await world.user.get(path)).json()
    assert (found["url"], found["events"]) == (f"{server.url}/new", ["snapshot.create"])
    await world.user.post(f"/v1/channels/{other['id']}/test")
    assert server.received[0].headers["x-wrenn-signature"] == signature(other["secret"], server.received[0])
    assert [w["id"] for w in (await world.user.get("/v1/webhooks")).json()] == [made["id"], other["id"]]


@pytest.mark.parametrize(
    "url", ["ftp://example.com/", "https://u:p@example.com/", "nonsense", "https://a b.c/"]
)
async def test_addresses_that_are_none(world: World, url: str) -> None:
    answer = await world.user.post("/v1/webhooks", {"url": url})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_url")


async def test_secrets_are_sealed(world: World, server: Endpoint) -> None:
    made = await webhook(world, server)
    [record] = await world.cp.db.fetch("SELECT config, c::text AS row FROM channels c")
    assert made["secret"].encode() not in record["config"]
    assert server.url not in record["row"]
    other = await webhook(world, server, name="other")
    await world.cp.db.execute("UPDATE channels SET config = $1 WHERE id = $2", record["config"], other["id"])
    failed = (await world.user.post(f"/v1/channels/{other['id']}/test")).json()
    assert "cannot be read" in failed["log"][0]["error"], "what is sealed for one channel opens in no other"


async def test_pages_of_deliveries(world: World, server: Endpoint) -> None:
    made = await webhook(world, server)
    for _ in range(5):
        await world.user.post(f"/v1/channels/{made['id']}/test")
    seen: list[str] = []
    path = f"/v1/channels/{made['id']}/deliveries?limit=2"
    answer = await world.api.get(path)
    while True:
        seen += [d["id"] for d in answer.json()]
        if "x-next-cursor" not in answer.headers:
            break
        answer = await world.api.get(f"{path}&cursor={answer.headers['x-next-cursor']}")
    assert len(set(seen)) == len(seen) == 5
    await world.cp.db.execute("UPDATE deliveries SET created_at = now() - interval '31 days'")
    await deliveries.expire(world.cp)
    assert await listed(world, made["id"]) == []


def test_delays_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "FIRST_SEC", 10.0)
    middle = [deliveries.delay(tries, 0.5) for tries in range(1, deliveries.TRIES + 1)]
    assert middle[:4] == [10, 20, 40, 80]
    assert middle[-1] is None
    assert max(delay for delay in middle if delay is not None) <= deliveries.LONGEST_SEC
    assert deliveries.delay(1, 0.0) == 5
    assert deliveries.delay(1, 1.0) == 15
