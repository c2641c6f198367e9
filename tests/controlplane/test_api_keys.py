"""API keys: scopes, expiry, whose they are; keys of one sandbox."""

import pytest

from support.api import Client
from support.people import Mailbox, code, join, mailbox, sign_up
from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent

__all__ = ["mailbox"]


async def made(client: Client, path: str = "/v1/api-keys", **wanted: object) -> dict[str, str]:
    answer = await client.post(path, wanted)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_scopes(world: World, host: SimulatedAgent) -> None:
    sandbox = await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}"
    reads = world.api.with_key((await made(world.user, scopes=["read"]))["key"])
    writes = world.api.with_key((await made(world.user))["key"])
    administers = world.api.with_key((await made(world.user, scopes=["read", "write", "admin"]))["key"])
    assert (await reads.get(path)).status_code == 200
    assert "envd_access_token" not in (await reads.get(path)).json(), "it would let the key write"
    assert "envd_access_token" in (await writes.get(path)).json()
    for method, target in (("POST", f"{path}/pause"), ("DELETE", path), ("POST", "/v1/sandboxes")):
        assert code(await reads.request(method, target)) == (403, "scope_required")
    assert (await writes.post(f"{path}/pause")).status_code == 200
    for client in (reads, writes):
        assert code(await client.post("/v1/api-keys", {})) == (403, "scope_required")
        assert code(await client.post(f"/v1/teams/{world.admin.team_id}/members", {"email": "a@b"})) == (
            403,
            "scope_required",
        )
    assert (await administers.post("/v1/api-keys", {"scopes": ["admin"]})).status_code == 201
    assert (await administers.patch(f"/v1/teams/{world.admin.team_id}", {"name": "x"})).status_code == 204
    assert code(await administers.get("/v1/me")) == (401, "unauthorized"), "a key is no person"
    only_admin = world.api.with_key((await made(world.user, scopes=["admin"]))["key"])
    assert code(await only_admin.get(path)) == (403, "scope_required")


async def test_nobody_makes_a_key_that_may_more_than_they(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    bob = await sign_up(world, mailbox, "bob@example.com")
    as_member = await join(world, mailbox, ada, bob, "member")
    assert code(await as_member.post("/v1/api-keys", {"scopes": ["admin"]})) == (403, "role_required")
    mine = await made(as_member)
    ada_s = await made(ada.client)
    assert code(await as_member.delete(f"/v1/api-keys/{ada_s['id']}")) == (403, "role_required")
    assert (await as_member.delete(f"/v1/api-keys/{mine['id']}")).status_code == 204
    mine = await made(as_member)
    assert (await ada.client.delete(f"/v1/api-keys/{mine['id']}")).status_code == 204


async def test_a_key_ends(world: World) -> None:
    key = await made(world.user, expires_in_sec=60)
    client = world.api.with_key(key["key"])
    assert (await client.get("/v1/sandboxes")).status_code == 200
    await world.cp.db.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", key["id"])
    assert code(await client.get("/v1/sandboxes")) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"expires_in_sec": 0},
        {"expires_in_sec": 10**12},
        {"scopes": "read"},
    ],
    ids=str,
)
async def test_keys_that_are_none(world: World, wrong: dict[str, object]) -> None:
    answer = await world.user.post("/v1/api-keys", wrong, wrong=True)
    assert code(answer) == (400, "invalid_request")


async def test_a_key_of_one_sandbox(world: World, host: SimulatedAgent) -> None:
    sandbox, other = await world.new_sandbox(), await world.new_sandbox()
    path = f"/v1/sandboxes/{sandbox['id']}"
    key = await made(world.api, f"{path}/api-keys", name="for a browser", scopes=["read", "write"])
    assert key["sandbox_id"] == sandbox["id"]
    client = world.api.with_key(key["key"])
    assert (await client.get(path)).status_code == 200
    assert (await client.post(f"{path}/pause")).status_code == 200
    assert (await client.post(f"{path}/resume")).status_code == 200
    for method, target in (
        ("GET", "/v1/sandboxes"),
        ("POST", "/v1/sandboxes"),
        ("GET", f"/v1/sandboxes/{other['id']}"),
        ("DELETE", f"/v1/sandboxes/{other['id']}"),
        ("POST", f"{path}/fork"),
        ("POST", f"{path}/snapshots"),
        ("POST", f"{path}/api-keys"),
        ("DELETE", f"{path}/api-keys/{key['id']}"),
        ("GET", "/v1/api-keys"),
        ("GET", "/v1/snapshots"),
        ("GET", f"/v1/teams/{world.admin.team_id}"),
    ):
        assert code(await client.request(method, target)) == (403, "scope_required"), f"{method} {target}"
    for target in ("/sandboxes", "/v2/sandboxes", f"/sandboxes/{other['id']}"):
        answer = await world.api.raw("GET", target, headers={"X-API-Key": key["key"]})
        assert answer.status_code == 403
    assert (
        await world.api.raw("GET", f"/sandboxes/{sandbox['id']}", headers={"X-API-Key": key["key"]})
    ).status_code == 200
    assert key["id"] not in (await world.user.get("/v1/api-keys")).text
    assert [one["id"] for one in (await world.api.get(f"{path}/api-keys")).json()] == [key["id"]]
    wrong = f"/v1/sandboxes/{other['id']}/api-keys/{key['id']}"
    assert (await world.api.delete(wrong)).status_code == 404
    assert (await world.api.delete(f"{path}/api-keys/{key['id']}")).status_code == 204
    assert code(await client.get(path)) == (401, "invalid_api_key")
