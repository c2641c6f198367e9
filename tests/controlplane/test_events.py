"""What happened is told once, in order, to those whom it concerns."""

import asyncio
from typing import Any

import asyncpg
import pytest

from support.api import check_response
from support.simulated import World, control_plane, eventually
from support.sse import Frame, Reader, events
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.keys import UserClaims
from wrenn_server.controlplane.services import events as service
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Unavailable


def key(world: World) -> dict[str, str]:
    return {"X-API-Key": world.admin.api_key}


async def take(reader: Reader, count: int) -> list[Frame]:
    frames = [await reader.next() for _ in range(count)]
    return [frame for frame in frames if frame is not None]


async def names(world: World) -> list[str]:
    listed = (await world.api.get("/v1/events")).json()
    return [event["type"] for event in reversed(listed)]


async def test_a_life_is_told(world: World, host: SimulatedAgent) -> None:
    async with events(world.url, key(world)) as reader:
        id = (await world.new_sandbox(metadata={"for": "tests"}))["id"]
        await world.api.post(f"/v1/sandboxes/{id}/pause")
        await world.api.post(f"/v1/sandboxes/{id}/resume")
        await world.api.delete(f"/v1/sandboxes/{id}")
        frames = await take(reader, 7)
    told = [(f.data["type"], f.data.get("outcome"), f.data["sandbox"]["state"]) for f in frames]
    assert told == [
        ("sandbox.create", "success", "running"),
        ("sandbox.state.changed", None, "pausing"),
        ("sandbox.pause", "success", "paused"),
        ("sandbox.state.changed", None, "resuming"),
        ("sandbox.resume", "success", "running"),
        ("sandbox.state.changed", None, "killing"),
        ("sandbox.destroy", "success", "killed"),
    ]
    first = frames[0].data
    assert first["resource"] == {"type": "sandbox", "id": id}
    assert first["sandbox"]["metadata"] == {"for": "tests"}
    assert first["actor"]["type"] == "api_key"
    assert first["actor"]["name"] == "bootstrap"
    assert frames[1].data["metadata"]["from"] == "running"
    assert [f.event for f in frames[::6]] == ["capsule.create", "capsule.destroy"]
    positions = [int(f.id or 0) for f in frames]
    assert positions == sorted(set(positions))
    assert await names(world) == [f.data["type"] for f in frames]


async def test_nothing_secret_is_told(world: World, host: SimulatedAgent) -> None:
    made = await world.new_sandbox(private=True, envs={"A": "secret-value"})
    await eventually(lambda: told(world, "sandbox.create"))
    text = (await world.api.get("/v1/events")).text
    for secret in (made["envd_access_token"], made["traffic_token"], "secret-value"):
        assert secret not in text


async def told(world: World, type: str) -> bool:
    return type in await names(world)


async def test_a_start_that_fails_is_told(world: World, host: SimulatedAgent) -> None:
    async def fail(command: object, sandbox_id: str) -> None:
        raise Unavailable("no slot is left", code="no_slots", retryable=False)

    host.host.before = fail
    await world.api.post("/v1/sandboxes", {})
    await eventually(lambda: told(world, "sandbox.create"))
    [event] = (await world.api.get("/v1/events?type=sandbox.create")).json()
    assert event["outcome"] == "error"
    assert event["error"]
    assert event["sandbox"]["status"] == "error"


async def test_snapshots_are_told(world: World, host: SimulatedAgent) -> None:
    id = (await world.new_sandbox())["id"]
    snapshot = (await world.api.post(f"/v1/sandboxes/{id}/snapshots", {})).json()["id"]
    await world.api.delete(f"/v1/snapshots/{snapshot}")
    await eventually(lambda: told(world, "snapshot.delete"))
    listed = (await world.api.get(f"/v1/events?resource_id={snapshot}")).json()
    assert [event["event"] for event in listed] == ["template.snapshot.delete", "template.snapshot.create"]
    assert listed[0]["metadata"]["sandbox_id"] == id


async def test_hosts_are_told_to_administrators_alone(world: World) -> None:
    token = {
        "Authorization": f"Bearer {world.cp.keys.user_token(UserClaims(world.admin.user_id, world.admin.team_id))}"
    }
    async with events(world.url, token) as reader, world.host() as agent:
        frame = await reader.until("host.up")
        assert frame.data["resource"] == {"type": "host", "id": agent.host_id}
        assert frame.data["actor"] == {"type": "system"}
    assert "host.up" not in await names(world)
    assert (await world.user.get("/v1/events")).json()[-1]["type"] == "host.up"


async def test_who_comes_back_goes_on(world: World, host: SimulatedAgent) -> None:
    async with events(world.url, key(world)) as reader:
        for _ in range(3):
            await world.new_sandbox()
        seen = (await take(reader, 3))[0]
    await world.new_sandbox()
    async with events(world.url, {**key(world), "Last-Event-ID": seen.id or ""}) as reader:
        again = await take(reader, 3)
    assert len({f.data["resource"]["id"] for f in [seen, *again]}) == 4
    assert [f.event for f in again] == ["capsule.create"] * 3


async def test_an_id_from_before_a_restore(world: World, host: SimulatedAgent) -> None:
    async with events(world.url, {**key(world), "Last-Event-ID": "999999999"}) as reader:
        await world.new_sandbox()
        assert (await reader.until("capsule.create")).data["outcome"] == "success"


@pytest.mark.parametrize("id", ["evt_x", "-1", "1.5", "9" * 30])
async def test_an_id_that_is_none(world: World, id: str) -> None:
    answer = await world.api.get("/v1/events/stream", headers={"Last-Event-ID": id})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_what_began_first_may_be_on_record_last(
    world: World, host: SimulatedAgent, database_url: str
) -> None:
    first, second = [(await world.new_sandbox())["id"] for _ in range(2)]
    connection = await asyncpg.connect(database_url)
    change = "UPDATE sandboxes SET state = 'pausing' WHERE id = $1"
    try:
        async with events(world.url, key(world)) as reader:
            slow = connection.transaction()
            await slow.start()
            await connection.execute(change, first)
            await world.cp.db.execute(change, second)
            earlier = await reader.until("capsule.state.changed")
            assert earlier.data["resource"]["id"] == second
            await slow.commit()
            later = await reader.until("capsule.state.changed")
            assert later.data["resource"]["id"] == first
            assert int(later.id or 0) > int(earlier.id or 0)
    finally:
        await connection.close()


async def test_two_control_planes_tell_each_event_once(database_url: str) -> None:
    async with control_plane(database_url) as one, control_plane(database_url) as two, one.host():
        headers = key(two)  # the key of the last bootstrap
        async with events(one.url, headers) as here, events(two.url, headers) as there:
            api = two.api
            made = await asyncio.gather(*(api.post("/v1/sandboxes", {}) for _ in range(8)))
            frames = [await take(reader, 8) for reader in (here, there)]
    ids = {answer.json()["id"] for answer in made}
    for read in frames:
        assert {f.data["resource"]["id"] for f in read} == ids
        assert [f.id for f in read] == [f.id for f in frames[0]]


async def test_another_team_hears_nothing(world: World, host: SimulatedAgent) -> None:
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    async with events(world.url, {"X-API-Key": other.api_key}) as reader:
        await world.new_sandbox()
        await eventually(lambda: told(world, "sandbox.create"))
        stranger = world.api.with_key(other.api_key)
        assert (await stranger.get("/v1/events")).json() == []
        theirs = (await stranger.post("/v1/sandboxes", {})).json()["id"]
        frame = await reader.next()
        assert frame is not None
        assert frame.data["resource"]["id"] == theirs


async def test_who_may_not_read_any_more_is_cut_off(
    world: World, host: SimulatedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ACCESS_SEC", 0.2)
    async with events(world.url, key(world)) as reader:
        await world.cp.db.execute("DELETE FROM api_keys")
        assert await reader.next() is None


async def test_a_stop_tells_readers_to_come_back(database_url: str) -> None:
    async with control_plane(database_url) as world:
        headers = key(world)
        reading = asyncio.Event()

        async def read() -> Reader:
            async with events(world.url, headers) as reader:
                reading.set()
                assert await reader.next() is None
                return reader

        task = asyncio.create_task(read())
        await reading.wait()
    assert (await task).retry == "1000"


async def test_silence_is_kept_alive(
    world: World, monkeypatch: pytest.MonkeyPatch, host: SimulatedAgent
) -> None:
    monkeypatch.setattr(service, "QUIET_SEC", 0.05)
    monkeypatch.setattr(service, "ACCESS_SEC", 0.1)
    async with events(world.url, key(world)) as reader:

        async def later() -> None:
            await asyncio.sleep(0.5)
            await world.new_sandbox()

        task = asyncio.create_task(later())
        await reader.until("capsule.create")
        await task
    assert "keepalive" in reader.comments


async def test_what_was_missed_is_found(world: World, host: SimulatedAgent) -> None:
    """Somebody died between writing an event and telling of it, or nobody listened."""
    id = (await world.new_sandbox())["id"]
    await eventually(lambda: told(world, "sandbox.create"))
    async with events(world.url, key(world)) as reader:
        await world.cp.db.execute("ALTER TABLE sandboxes DISABLE TRIGGER sandboxes_event")
        await world.cp.db.execute(
            "INSERT INTO events (team_id, type, resource_type, resource_id, actor_type)"
            " VALUES ($1, 'sandbox.destroy', 'sandbox', $2, 'system')",
            world.admin.team_id,
            id,
        )
        await world.cp.db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            " AND datname = current_database()"
        )
        assert (await reader.until("capsule.destroy")).data["resource"]["id"] == id


async def test_pages(world: World, host: SimulatedAgent) -> None:
    for _ in range(5):
        await world.new_sandbox()
    await eventually(lambda: counted(world, 5))
    seen: list[Any] = []
    path = "/v1/events?limit=2"
    while True:
        answer = await world.api.get(path)
        seen += answer.json()
        if "x-next-cursor" not in answer.headers:
            break
        path = f"/v1/events?limit=2&cursor={answer.headers['x-next-cursor']}"
    assert len({event["id"] for event in seen}) == 5
    for cursor in ("nonsense", "bjE=x", "%00", "MQ", "bi0x"):
        assert (await world.api.get(f"/v1/events?cursor={cursor}")).status_code == 400
    answer = await world.api.get("/v1/events?type=nonsense")
    assert answer.status_code == 400
    check_response("GET", "/v1/events", answer)


async def counted(world: World, count: int) -> bool:
    return len(await names(world)) == count


async def test_old_events_go(world: World, host: SimulatedAgent) -> None:
    for _ in range(2):
        await world.new_sandbox()
    await eventually(lambda: counted(world, 2))
    await world.cp.db.execute(
        "UPDATE events SET created_at = now() - interval '31 days'"
        " WHERE position = (SELECT min(position) FROM events WHERE team_id IS NOT NULL)"
    )
    await service.expire(world.cp)
    assert await counted(world, 1)
