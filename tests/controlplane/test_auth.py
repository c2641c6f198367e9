"""Who may ask what: every route refuses strangers, and rights are read anew each time."""

import json
import re
from pathlib import Path

import jwt
import pytest

from support.api import DESCRIPTION
from support.simulated import PASSWORD, World
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.keys import UserClaims
from wrenn_server.db import users as db_users
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.ids import (
    new_cap_id,
    new_channel_id,
    new_host_id,
    new_invitation_id,
    new_invoice_id,
    new_key_id,
    new_sandbox_id,
    new_session_id,
    new_snapshot_id,
    new_team_id,
    new_user_id,
)

OPEN = json.loads(Path(__file__).with_name("open_routes.json").read_text())
"""Routes that need no credentials, or have their own in the body."""

ROUTES = [(method.upper(), path) for path, item in DESCRIPTION["paths"].items() for method in item]
IDS = {
    "sandbox_id": new_sandbox_id,
    "snapshot_id": new_snapshot_id,
    "host_id": new_host_id,
    "key_id": new_key_id,
    "process": lambda: "1",
    "cap_id": new_cap_id,
    "invoice_id": new_invoice_id,
    "name": lambda: "small",
    "provider": lambda: "github",
    "team_id": new_team_id,
    "user_id": new_user_id,
    "session_id": new_session_id,
    "invitation_id": new_invitation_id,
    "channel_id": new_channel_id,
    "webhook_id": new_channel_id,
    "delivery_id": lambda: "dlv_" + "0" * 20,
}


def concrete(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: IDS[name[1]](), path)


@pytest.fixture
def closed() -> list[tuple[str, str]]:
    return [(method, path) for method, path in ROUTES if f"{method} {path}" not in OPEN]


async def test_every_route_refuses_strangers(world: World, closed: list[tuple[str, str]]) -> None:
    assert len(closed) > 15
    stranger = world.api.anonymous()
    for method, path in closed:
        answer = await stranger.request(method, concrete(path))
        assert answer.status_code == 401, f"{method} {path} answered {answer.status_code} without credentials"
        assert "hint" in answer.json()["error"]


async def test_every_route_refuses_bad_credentials(world: World, closed: list[tuple[str, str]]) -> None:
    bad = [
        {"X-API-Key": "wrn_" + "0" * 40},
        {"X-API-Key": "nonsense"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"X-Host-Token": "nonsense"},
        {"X-API-Key": "nonsense", "Authorization": "Bearer nonsense", "X-Host-Token": "nonsense"},
    ]
    for headers in bad:
        for method, path in closed:
            answer = await world.api.anonymous().request(method, concrete(path), headers=headers)
            assert answer.status_code == 401, f"{method} {path} answered {answer.status_code} to {headers}"


def test_open_routes_are_described_as_such() -> None:
    described = {
        f"{method} {path}"
        for method, path in ROUTES
        if "security" not in DESCRIPTION["paths"][path][method.lower()]
    }
    assert described == set(OPEN)


async def test_a_body_is_not_looked_at_before_credentials(world: World) -> None:
    answer = await world.api.anonymous().request("POST", "/v1/sandboxes", content=b"{", wrong=True)
    assert answer.status_code == 401


async def test_a_key_works_with_both_prefixes(world: World) -> None:
    digits = world.admin.api_key.removeprefix("wrn_")
    for key in (f"wrn_{digits}", f"e2b_{digits}"):
        assert (await world.api.with_key(key).get("/v1/sandboxes")).status_code == 200
        assert (await world.api.with_token(key).get("/v1/sandboxes")).status_code == 200
    for key in (digits, f"xyz_{digits}", f"wrn_{digits.upper()}", f"wrn_{digits}0", f"wrn_{digits[:-1]}"):
        assert (await world.api.with_key(key).get("/v1/sandboxes")).status_code == 401


async def test_login(world: World) -> None:
    anonymous = world.api.anonymous()
    answer = await anonymous.post("/v1/auth/login", {"email": " Admin@Example.com", "password": PASSWORD})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["email"], body["team_id"], body["name"]) == (
        "admin@example.com",
        world.admin.team_id,
        "admin",
    )
    claims = jwt.decode(body["token"], options={"verify_signature": False})
    assert claims["iss"] == "wrenn"
    assert "role" not in claims, "rights are in the database"


@pytest.mark.parametrize(
    ("email", "password"),
    [("admin@example.com", "wrong"), ("nobody@example.com", PASSWORD), ("", ""), ("admin@example.com", "")],
)
async def test_a_wrong_login_does_not_say_what_was_wrong(world: World, email: str, password: str) -> None:
    answer = await world.api.anonymous().post("/v1/auth/login", {"email": email, "password": password})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "wrong_credentials")
    assert answer.json()["error"]["message"] == "wrong e-mail address or password"


async def test_a_token_is_worth_what_the_database_says_now(world: World, host: SimulatedAgent) -> None:
    assert (await world.user.get("/v1/sandboxes")).status_code == 200
    await world.cp.db.execute("UPDATE users SET status = 'disabled'")
    assert (await world.user.get("/v1/sandboxes")).status_code == 401
    await world.cp.db.execute("UPDATE users SET status = 'active'")
    assert (await world.user.get("/v1/sandboxes")).status_code == 200
    await world.cp.db.execute("DELETE FROM members")
    assert (await world.user.get("/v1/sandboxes")).status_code == 401
    assert (await world.user.post("/v1/api-keys", {})).status_code == 401


async def test_tokens_of_one_kind_are_none_of_another(world: World, host: SimulatedAgent) -> None:
    call = world.cp.keys.call_token(host.host_id)
    for token in (call, host.credentials.token):
        assert (await world.api.with_token(token).get("/v1/sandboxes")).status_code == 401
    user = world.cp.keys.user_token(UserClaims(world.admin.user_id, world.admin.team_id))
    for token in (call, user):
        answer = await world.api.anonymous().post(
            f"/v1/hosts/{host.host_id}/heartbeat", headers={"X-Host-Token": token}
        )
        assert answer.status_code == 401


async def test_a_token_that_somebody_else_signed(world: World) -> None:
    good = world.cp.keys.user_token(UserClaims(world.admin.user_id, world.admin.team_id))
    claims = jwt.decode(good, options={"verify_signature": False})
    forged = [
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(claims, world.cp.keys.signing_public_pem.replace("-", "x"), algorithm="HS256"),
        good[:-4] + "AAAA",
    ]
    for token in forged:
        assert (await world.api.with_token(token).get("/v1/sandboxes")).status_code == 401


async def test_an_expired_token_says_so(world: World) -> None:
    claims = jwt.decode(
        world.cp.keys.user_token(UserClaims(world.admin.user_id, world.admin.team_id)),
        options={"verify_signature": False},
    )
    old = jwt.encode({**claims, "exp": claims["iat"] - 1}, world.cp.keys.signing, algorithm="EdDSA")
    answer = await world.api.with_token(old).get("/v1/sandboxes")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token_expired")


async def test_api_keys(world: World) -> None:
    made = (await world.user.post("/v1/api-keys", {"name": "ci"})).json()
    assert made["key"].startswith("wrn_")
    assert made["key"].startswith(made["key_prefix"])
    assert (await world.api.with_key(made["key"]).get("/v1/sandboxes")).status_code == 200
    listed = (await world.user.get("/v1/api-keys")).json()
    assert listed[0]["name"] == "ci"
    assert all("key" not in key for key in listed)
    assert (await world.user.delete(f"/v1/api-keys/{made['id']}")).status_code == 204
    assert (await world.api.with_key(made["key"]).get("/v1/sandboxes")).status_code == 401
    assert (await world.user.delete(f"/v1/api-keys/{made['id']}")).status_code == 404


async def test_a_key_cannot_make_keys(world: World) -> None:
    answer = await world.api.post("/v1/api-keys", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_required")


async def test_keys_of_another_team(world: World) -> None:
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    mine = (await world.user.post("/v1/api-keys", {})).json()
    token = world.cp.keys.user_token(UserClaims(other.user_id, other.team_id))
    stranger = world.api.with_token(token)
    assert mine["id"] not in [key["id"] for key in (await stranger.get("/v1/api-keys")).json()]
    assert (await stranger.delete(f"/v1/api-keys/{mine['id']}")).status_code == 404
    assert (await world.api.with_key(mine["key"]).get("/v1/sandboxes")).status_code == 200


async def test_secrets_are_not_in_the_database(world: World) -> None:
    await world.user.post("/v1/hosts")
    for table in ("api_keys", "users", "host_tokens"):
        for record in await world.cp.db.fetch(f"SELECT t::text AS row FROM {table} t"):  # noqa: S608 - three names above
            assert world.admin.api_key not in record["row"]
            assert world.admin.api_key[4:] not in record["row"]
            assert PASSWORD not in record["row"]


async def test_bootstrap_is_idempotent(world: World) -> None:
    again = await bootstrap.bootstrap(world.cp.db, "ADMIN@example.com", None)
    assert (again.user_id, again.team_id) == (world.admin.user_id, world.admin.team_id)
    assert again.admin_password is None
    assert (await world.api.with_key(again.api_key).get("/v1/sandboxes")).status_code == 200
    assert (await world.api.get("/v1/sandboxes")).status_code == 401, (
        "its key took the place of the one before"
    )
    await bootstrap.bootstrap(world.cp.db, "admin@example.com", "a new password")
    login = {"email": "admin@example.com", "password": "a new password"}
    assert (await world.api.anonymous().post("/v1/auth/login", login)).status_code == 200
    user = await db_users.by_email(world.cp.db, "admin@example.com")
    assert user is not None
    assert user.is_admin
