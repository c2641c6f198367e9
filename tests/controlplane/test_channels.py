"""Events come to chat rooms, in the form that each service takes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.endpoint import Endpoint, endpoint
from support.simulated import World, control_plane
from wrenn_server.controlplane.services import messages
from wrenn_server.controlplane.services.messages import Chat
from wrenn_server.hostagent.simulated import SimulatedAgent


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with control_plane(database_url, webhooks_private=True) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[Endpoint]:
    async with endpoint() as made:
        yield made


def config(provider: str, url: str) -> dict[str, str]:
    match provider:
        case "telegram":
            return {"bot_token": "123:abc_D-e", "chat_id": "-100200", "api_url": url}
        case "matrix":
            return {"homeserver_url": url + "/", "access_token": "syt_x", "room_id": "!room:example.org"}
        case _:
            return {"webhook_url": url + "/services/T/B"}


def text_of(provider: str, body: Any) -> str:
    match provider:
        case "slack" | "telegram" | "googlechat":
            return body["text"]
        case "discord":
            assert body["allowed_mentions"] == {"parse": []}
            return body["content"]
        case "teams":
            [attachment] = body["attachments"]
            assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
            return attachment["content"]["body"][0]["text"]
        case _:
            assert body["msgtype"] == "m.text"
            return body["body"]


TARGETS = {
    "slack": ("POST", "/services/T/B"),
    "discord": ("POST", "/services/T/B"),
    "teams": ("POST", "/services/T/B"),
    "googlechat": ("POST", "/services/T/B"),
    "telegram": ("POST", "/bot123:abc_D-e/sendMessage"),
    "matrix": ("PUT", "/_matrix/client/v3/rooms/%21room%3Aexample.org/send/m.room.message/"),
}


@pytest.mark.parametrize("provider", TARGETS)
async def test_each_gets_its_form(
    world: World, host: SimulatedAgent, server: Endpoint, provider: str
) -> None:
    made = await world.user.post(
        "/v1/channels",
        {
            "name": "Room",
            "provider": provider,
            "config": config(provider, server.url),
            "events": ["sandbox.create"],
        },
    )
    assert made.status_code == 201, made.text
    assert "secret" not in made.json()
    id = (await world.new_sandbox())["id"]
    [got] = await server.wait(1)
    method, target = TARGETS[provider]
    assert got.method == method
    assert got.target.startswith(target)
    if provider == "matrix":
        assert got.target.removeprefix(target).startswith("dlv_")
        assert got.headers["authorization"] == "Bearer syt_x"
    text = text_of(provider, json.loads(got.body))
    assert text == f"Wrenn: sandbox.create {id} succeeded by bootstrap"
    done = (await world.user.post(f"/v1/channels/{made.json()['id']}/test")).json()
    assert done["state"] == "delivered"
    assert text_of(provider, json.loads(server.received[1].body)) == "Wrenn: this channel works"
    shown = (await world.user.get(f"/v1/channels/{made.json()['id']}")).text
    for secret in ("/services/T/B", "abc_D-e", "syt_x", server.url):
        assert secret not in shown


async def test_a_webhook_is_a_channel(world: World, server: Endpoint) -> None:
    wanted = {"name": "hook", "provider": "webhook", "config": {"url": server.url}}
    made = (await world.user.post("/v1/channels", wanted)).json()
    assert len(made["secret"]) == 64
    assert [hook["id"] for hook in (await world.user.get("/v1/webhooks")).json()] == [made["id"]]
    again = (
        await world.user.request(
            "PUT", f"/v1/channels/{made['id']}/config", json={"config": {"url": f"{server.url}/x"}}
        )
    ).json()
    assert again["secret"] not in {made["secret"], None}
    chat = {"name": "chat", "provider": "slack", "config": {"webhook_url": server.url}}
    other = (await world.user.post("/v1/channels", chat)).json()
    assert (await world.user.get(f"/v1/webhooks/{other['id']}")).status_code == 404
    changed = await world.user.request(
        "PATCH", f"/v1/channels/{other['id']}", json={"name": "New", "events": ["snapshot.create"]}
    )
    assert (changed.json()["name"], changed.json()["events"]) == ("new", ["snapshot.create"])
    assert (await world.user.delete(f"/v1/channels/{other['id']}")).status_code == 204
    assert (await world.user.delete(f"/v1/channels/{other['id']}")).status_code == 404


async def test_a_configuration_is_tried_before_it_is_kept(world: World, server: Endpoint) -> None:
    wanted = {"provider": "discord", "config": {"webhook_url": server.url}}
    answer = await world.user.post("/v1/channels/test", wanted)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    server.answers.append((401, b"bad token"))
    answer = await world.user.post("/v1/channels/test", wanted)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "delivery_failed")
    assert "bad token" not in answer.text
    assert (await world.user.get("/v1/channels")).json() == []
    hook = {"provider": "webhook", "config": {"url": server.url, "secret": "0123456789abcdef"}}
    answer = await world.user.post("/v1/channels/test", hook)
    assert answer.status_code == 200
    assert server.received[-1].headers["x-wrenn-signature"].startswith("sha256=")


@pytest.mark.parametrize(
    ("provider", "config"),
    [
        ("slack", {}),
        ("slack", {"webhook_url": "https://example.com", "more": 1}),
        ("slack", {"webhook_url": 5}),
        ("slack", {"webhook_url": "file:///etc/passwd"}),
        ("telegram", {"bot_token": "1:a/../x", "chat_id": "1"}),
        ("telegram", {"bot_token": "1:a\n", "chat_id": "1"}),
        ("telegram", {"bot_token": "1:a", "chat_id": "x"}),
        ("matrix", {"homeserver_url": "https://m.org", "access_token": "a\r\nX: y", "room_id": "!r:m.org"}),
        ("matrix", {"homeserver_url": "https://m.org", "access_token": "a", "room_id": "r"}),
        ("webhook", {"url": "https://example.com", "secret": "short"}),
    ],
)
async def test_configurations_that_are_none(world: World, provider: str, config: dict[str, Any]) -> None:
    for path, body in (("/v1/channels", {"name": "x"}), ("/v1/channels/test", {})):
        answer = await world.user.post(path, {**body, "provider": provider, "config": config})
        assert answer.status_code == 400, answer.text


async def test_names_that_are_none(world: World) -> None:
    config = {"webhook_url": "https://example.com"}
    for name in ("   ", "a\x01b"):
        answer = await world.user.post("/v1/channels", {"name": name, "provider": "slack", "config": config})
        assert answer.status_code == 400


async def test_there_are_not_too_many(world: World) -> None:
    await world.cp.db.execute(
        "INSERT INTO channels (id, team_id, name, provider, events, config)"
        " SELECT 'chn_' || n, $1, n::text, 'slack', '{}', '' FROM generate_series(1, 100) n",
        world.admin.team_id,
    )
    wanted = {"name": "x", "provider": "slack", "config": {"webhook_url": "https://example.com"}}
    answer = await world.user.post("/v1/channels", wanted)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_channels")


def test_nobody_is_called_by_a_name() -> None:
    """What a sandbox or key is called, and what went wrong, may be anybody's words."""
    chat = Chat(webhook_url="https://example.com")
    text = "<!channel> <users/all> <@U1> &" + "x" * 5000

    def body(provider: Any) -> str:
        return messages.chat(provider, chat, text, "dlv_x").body.decode()

    assert "<" not in body("slack")
    assert "<" not in body("googlechat")
    assert all(len(body(provider)) < 2000 for provider in ("slack", "discord", "teams", "googlechat"))
