"""Any POST that comes again with its `Idempotency-Key`: one effect, one answer, and no secret in clear for it."""

import asyncio
from typing import Any

import httpx2
import pytest
from controlplane.test_auth import concrete
from controlplane.test_idempotency import silence
from controlplane.test_pools import buy, queued

from support.api import DESCRIPTION, Client
from support.people import Mailbox, join, log_in, mailbox, sign_up
from support.simulated import Gate, World, control_plane, eventually
from wrenn_server.controlplane.api.idempotency import EXCEPTIONS, NAME
from wrenn_server.controlplane.services import idempotency
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Internal

__all__ = ["mailbox"]

POSTS = {
    item["post"]["operationId"]: (path, item["post"])
    for path, item in DESCRIPTION["paths"].items()
    if "post" in item
}


async def again(
    client: Client, path: str, body: Any = None, key: str = "k", **options: Any
) -> httpx2.Response:
    return await client.post(path, body, headers={NAME: key}, **options)


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_every_post_names_the_key_or_is_an_exception() -> None:
    named = {
        name
        for name, (_, post) in POSTS.items()
        if NAME in [parameter["name"] for parameter in post.get("parameters", [])]
    }
    assert set(EXCEPTIONS) <= set(POSTS), "the table has what the API has not"
    assert named == set(POSTS) - set(EXCEPTIONS)
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize("name", POSTS)
def test_what_needs_no_login_is_an_exception(name: str) -> None:
    """There is no team that the key could be of."""
    security = [scheme for one in POSTS[name][1].get("security", []) for scheme in one]
    assert name in EXCEPTIONS or "user" in security


async def test_what_names_the_key_reads_it(world: World) -> None:
    for name, (path, _) in POSTS.items():
        if name == "logout":
            continue  # the others need the session
        answer = await again(world.user, concrete(path), key="a b")
        refused = answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_idempotency_key"
        assert refused != (name in EXCEPTIONS), f"{name} answered {answer.status_code} {answer.text}"


async def test_a_secret_is_shown_again_and_not_kept_in_clear(world: World, host: SimulatedAgent) -> None:
    secrets = [
        (await again(world.user, path, body, key=key)).json()
        for _ in range(2)
        for path, body, key in (
            ("/v1/api-keys", {"name": "ci"}, "1"),
            ("/v1/webhooks", {"url": "https://127.0.0.1:1/"}, "2"),
            ("/v1/hosts", {"type": "byoc"}, "3"),
            ("/v1/sandboxes", {"private": True}, "4"),
        )
    ]
    assert secrets[:4] == secrets[4:]
    assert len((await world.user.get("/v1/webhooks")).json()) == 1
    assert (await world.api.with_key(secrets[0]["key"]).get("/v1/sandboxes")).status_code == 200
    kept = await world.cp.db.fetch("SELECT answer FROM idempotency_keys")
    assert len(kept) == 4
    shown = (
        secrets[0]["key"],
        secrets[1]["secret"],
        secrets[2]["registration_token"],
        secrets[3]["id"],
    )
    for row in kept:
        assert not any(secret.encode() in row["answer"] for secret in shown)


async def test_another_request_with_the_key_is_refused(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}/snapshots"
    first = await again(world.api, path, {"name": "a"})
    assert first.status_code == 201
    for client, other, body in (
        (world.api, path, {"name": "b"}),
        (world.api, f"/v1/sandboxes/{sandbox['id']}/pause", None),
        (world.api, "/v1/sandboxes", {}),
        (world.user, path, {"name": "a"}),
    ):
        assert code(await again(client, other, body)) == (409, "idempotency_key_reused")
    assert (await again(world.api, path, {"name": "a"})).json() == first.json()
    assert await world.state(sandbox["id"]) == "running"


async def test_who_may_no_more_hears_nothing(world: World) -> None:
    key = (await world.user.post("/v1/api-keys", {"scopes": ["read", "write", "admin"]})).json()
    client = world.api.with_key(key["key"])
    wanted = {"url": "https://127.0.0.1:1/"}
    assert (await again(client, "/v1/webhooks", wanted)).status_code == 201
    await world.user.delete(f"/v1/api-keys/{key['id']}")
    assert (await again(client, "/v1/webhooks", wanted)).status_code == 401
    assert (await again(world.api.anonymous(), "/v1/webhooks", wanted)).status_code == 401


async def test_a_failure_is_not_kept(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    asked: list[Command] = []

    async def fails_once(command: Command, _: str) -> None:
        asked.append(command)
        if len(asked) == 1:
            raise Internal("no")

    host.host.before = fails_once
    path = f"/v1/sandboxes/{sandbox['id']}/snapshots"
    assert (await again(world.api, path)).status_code == 500
    made = await again(world.api, path)
    assert made.status_code == 201
    assert (await again(world.api, path)).json() == made.json()
    assert asked == [Command.SNAPSHOT, Command.SNAPSHOT]


async def test_at_once_and_on_two_control_planes(
    world: World, host: SimulatedAgent, database_url: str
) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}/fork"
    host.host.before = gate = Gate(Command.FORK)
    async with control_plane(database_url) as other:
        here, there = (client.with_key(other.admin.api_key) for client in (world.api, other.api))
        calls = [asyncio.create_task(again(client, path, {"count": 2})) for client in (there, here, there)]
        await gate.reached.wait()
        gate.open.set()
        answers = [await call for call in calls]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert len(host.host.held) == 3


async def test_an_answer_without_a_body(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    bob = await sign_up(world, mailbox, "bob@example.com")
    await join(world, mailbox, ada, bob, "admin")
    path, body = f"/v1/teams/{ada.team_id}/transfer", {"user_id": bob.user_id}
    first = await again(ada.client, path, body)
    second = await again((await log_in(world, ada.email)).client, path, body)
    assert (first.status_code, first.content) == (second.status_code, second.content) == (204, b"")
    assert (await again(ada.client, path, body, key="other")).status_code == 403


async def test_a_repetition_is_on_record(world: World) -> None:
    made = [(await again(world.user, "/v1/api-keys", {})).json() for _ in range(2)]
    rows = (await world.user.get("/v1/audit-logs?operation=createApiKey")).json()
    assert [row["resource_id"] for row in rows] == [made[0]["id"]] * 2
    assert {row["actor_id"] for row in rows} == {world.admin.user_id}


async def test_what_its_owner_died_over_is_carried_out_anew(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}/snapshots"
    first = await again(world.api, path)
    await world.cp.db.execute("UPDATE idempotency_keys SET answer = NULL")
    await silence(world.cp.db)
    second = await again(world.api, path)
    assert (second.status_code, second.json()["id"] != first.json()["id"]) == (201, True)
    assert (await again(world.api, path)).json() == second.json()


async def test_who_takes_long_is_not_replaced(
    world: World, host: SimulatedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "SIGN_SEC", 0.05)
    sandbox = await world.new_sandbox()
    host.host.before = gate = Gate(Command.SNAPSHOT)
    path = f"/v1/sandboxes/{sandbox['id']}/snapshots"
    first = asyncio.create_task(again(world.api, path))
    await gate.reached.wait()
    await silence(world.cp.db)

    async def heard_of() -> bool:
        return await world.cp.db.fetchval("SELECT seen_at > now() - interval '10 s' FROM idempotency_keys")

    await eventually(heard_of)
    second = asyncio.create_task(again(world.api, path))
    gate.open.set()
    assert (await first).json() == (await second).json()
    assert await world.cp.db.fetchval("SELECT count(*) FROM snapshots") == 1


async def test_a_client_that_goes_away_and_comes_again(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    host.host.before = gate = Gate(Command.SNAPSHOT)
    path = f"/v1/sandboxes/{sandbox['id']}/snapshots"
    first = asyncio.create_task(again(world.api, path))
    await gate.reached.wait()
    first.cancel()
    second = asyncio.create_task(again(world.api, path))
    gate.open.set()
    assert (await second).status_code == 201
    assert await world.cp.db.fetchval("SELECT count(*) FROM snapshots") == 1


async def test_a_client_that_goes_away_leaves_the_queue(world: World, host: SimulatedAgent) -> None:
    await buy(world, vcpus=1)
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}/fork"
    waiting = asyncio.create_task(again(world.api, path, {"wait_sec": 60}))
    await queued(world, 1)
    waiting.cancel()
    await queued(world, 0)
    assert list(host.host.held) == [sandbox["id"]]
