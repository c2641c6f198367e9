"""The matrix of who may what: every route of the API with every kind of credential.

`access.json` says what each route is for; a route without a row fails. What a kind of credential may follows from that:

| | open | read | write | keys | admin | owner | person | platform | host |
|---|---|---|---|---|---|---|---|---|---|
| nothing, or what has ended | yes | 401 | 401 | 401 | 401 | 401 | 401 | 401 | 401 |
| member | yes | yes | yes | yes | 403 | 403 | yes | 403 | 401 |
| administrator of the team | yes | yes | yes | yes | yes | 403 | yes | 403 | 401 |
| owner | yes | yes | yes | yes | yes | yes | yes | 403 | 401 |
| administrator of the platform | yes | yes | yes | yes | yes | yes | yes | yes | 401 |
| key: read | yes | yes | 403 | 403 | 403 | 4xx | 401 | 401 | 401 |
| key: read, write | yes | yes | yes | 403 | 403 | 4xx | 401 | 401 | 401 |
| key: all scopes | yes | yes | yes | yes | yes | 4xx | 401 | 401 | 401 |
| key of one sandbox, elsewhere | yes | 403 | 403 | 403 | 403 | 4xx | 401 | 401 | 401 |
| another host | yes | 401 | 401 | 401 | 401 | 401 | 401 | 401 | 403 |

*yes* is any answer but 401 and 403: requests have no or little in them, so that most end as 400 or 404.
"""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest

from support.api import DESCRIPTION, Client
from support.people import Mailbox, Person, join, log_in, mailbox, sign_up
from support.simulated import World
from wrenn_server.controlplane import bootstrap
from wrenn_server.hostagent import simulated
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model import ids

__all__ = ["mailbox"]

FILE = Path(__file__).with_name("access.json")
ACCESS: dict[str, str] = json.loads(FILE.read_text())
ROUTES = [f"{method.upper()} {path}" for path, item in DESCRIPTION["paths"].items() for method in item]
ENDS_SESSION = ("POST /v1/auth/switch-team", "DELETE /v1/me/sessions", "POST /v1/auth/logout")
"""Last, so that the others find the session."""
NEVER_ENDS = ("GET /v1/events/stream",)
"""An answer that lasts: refusals are asked for, what is let in is not."""
BODIES: dict[str, Any] = {
    "POST /v1/teams/{team_id}/transfer": {"user_id": ids.new_user_id()},
    "POST /v1/teams/{team_id}/members": {"email": "nobody"},
    "POST /v1/hosts": {"type": "byoc"},
}
"""Where the role is looked at after the body, or depends on it."""

YES = "yes"
CLASSES = ("open", "read", "write", "keys", "admin", "owner", "person", "platform", "host")
EXPECTED: dict[str, tuple[object, ...]] = {
    "nothing": (YES, 401, 401, 401, 401, 401, 401, 401, 401),
    "revoked key": (YES, 401, 401, 401, 401, 401, 401, 401, 401),
    "expired key": (YES, 401, 401, 401, 401, 401, 401, 401, 401),
    "expired token": (YES, 401, 401, 401, 401, 401, 401, 401, 401),
    "ended session": (YES, 401, 401, 401, 401, 401, 401, 401, 401),
    "disabled user": (YES, 401, 401, 401, 401, 401, 401, 401, 401),
    "removed member": (YES, 401, 401, 401, 401, 401, 401, 401, 401),
    "member": (YES, YES, YES, YES, 403, 403, YES, 403, 401),
    "administrator": (YES, YES, YES, YES, YES, 403, YES, 403, 401),
    "owner": (YES, YES, YES, YES, YES, YES, YES, 403, 401),
    "platform": (YES, YES, YES, YES, YES, YES, YES, YES, 401),
    "key: read": (YES, YES, 403, 403, 403, (401, 403), 401, 401, 401),
    "key: read, write": (YES, YES, YES, 403, 403, (401, 403), 401, 401, 401),
    "key: all": (YES, YES, YES, YES, YES, (401, 403), 401, 401, 401),
    "key of a sandbox": (YES, 403, 403, 403, 403, (401, 403), 401, 401, 401),
    "another host": (YES, 401, 401, 401, 401, 401, 401, 401, 403),
}


@dataclass
class Matrix:
    clients: dict[str, Client]
    teams: dict[str, str]
    """By kind, where it is not the owner's."""
    owner: Person
    foreign: dict[str, str] = field(default_factory=dict[str, str])
    """Ids of another team's things."""


def path_of(route: str, given: dict[str, str]) -> str:
    made = {
        "sandbox_id": ids.new_sandbox_id,
        "snapshot_id": ids.new_snapshot_id,
        "host_id": ids.new_host_id,
        "key_id": ids.new_key_id,
        "team_id": ids.new_team_id,
        "user_id": ids.new_user_id,
        "session_id": ids.new_session_id,
        "invitation_id": ids.new_invitation_id,
        "provider": lambda: "github",
        "process": lambda: "1",
    }
    # A route's own kind of thing: any id of the right form will do, there is none of it.
    return re.sub(
        r"\{(\w+)\}",
        lambda name: given.get(name[1]) or made.get(name[1], ids.new_request_id)(),
        route.partition(" ")[2],
    )


def test_every_route_has_a_row() -> None:
    assert sorted(ROUTES) == sorted(ACCESS), f"say in {FILE.name} what the route is for"
    assert set(ACCESS.values()) <= set(CLASSES)


@pytest.fixture
async def matrix(world: World, host: SimulatedAgent, mailbox: Mailbox) -> AsyncIterator[Matrix]:
    owner = await sign_up(world, mailbox, "owner@example.com")
    people = {
        name: await sign_up(world, mailbox, f"a-{name}@example.com") for name in ("admin", "member", "gone")
    }
    clients = {
        "nothing": world.api.anonymous(),
        "owner": owner.client,
        "platform": world.user,
        "administrator": await join(world, mailbox, owner, people["admin"], "admin"),
        "member": await join(world, mailbox, owner, people["member"], "member"),
        "removed member": await join(world, mailbox, owner, people["gone"], "admin"),
    }
    await owner.client.delete(f"/v1/teams/{owner.team_id}/members/{people['gone'].user_id}")
    for name, scopes in (
        ("key: read", ["read"]),
        ("key: read, write", ["read", "write"]),
        ("key: all", ["read", "write", "admin"]),
        ("revoked key", ["read", "write", "admin"]),
        ("expired key", ["read", "write", "admin"]),
    ):
        made = (await owner.client.post("/v1/api-keys", {"scopes": scopes})).json()
        clients[name] = world.api.with_key(made["key"])
        if name == "revoked key":
            await owner.client.delete(f"/v1/api-keys/{made['id']}")
        elif name == "expired key":
            await world.cp.db.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", made["id"])
    ended = await log_in(world, owner.email)
    await ended.client.post("/v1/auth/logout")
    clients["ended session"] = ended.client
    disabled = await sign_up(world, mailbox, "disabled@example.com")
    await world.user.patch(f"/v1/admin/users/{disabled.user_id}", {"active": False})
    clients["disabled user"] = disabled.client
    clients["expired token"] = world.api.with_token(expired(world, owner))
    sandbox = (await owner.client.post("/v1/sandboxes", {})).json()
    made = (await owner.client.post(f"/v1/sandboxes/{sandbox['id']}/api-keys", {})).json()
    clients["key of a sandbox"] = world.api.with_key(made["key"])
    created = await bootstrap.create_host(world.cp.db)
    async with simulated.running(world.url, created.registration_token) as other:
        clients["another host"] = world.api.with_headers(X_Host_Token=other.credentials.token)
        foreign = await foreign_things(world, await sign_up(world, mailbox, "foreign@example.com"))
        yield Matrix(clients, {"platform": world.admin.team_id}, owner, foreign)


def expired(world: World, owner: Person) -> str:
    claims = {
        "iss": "wrenn",
        "aud": "wrenn-user",
        "sub": owner.user_id,
        "team": owner.team_id,
        "iat": 1,
        "exp": 2,
    }
    return jwt.encode(claims, world.cp.keys.signing, algorithm="EdDSA")


async def foreign_things(world: World, who: Person) -> dict[str, str]:
    """One of each kind of thing that a path can name, of another team."""
    sandbox = (await who.client.post("/v1/sandboxes", {})).json()["id"]
    found = {
        "team_id": who.team_id,
        "sandbox_id": sandbox,
        "snapshot_id": (await who.client.post(f"/v1/sandboxes/{sandbox}/snapshots", {})).json()["id"],
        "key_id": (await who.client.post("/v1/api-keys", {})).json()["id"],
        "session_id": (await who.client.get("/v1/me/sessions")).json()[0]["id"],
    }
    invited = await who.client.post(f"/v1/teams/{who.team_id}/members", {"email": "guest@example.com"})
    found["invitation_id"] = invited.json()["id"]
    hook = (await who.client.post("/v1/webhooks", {"url": "https://127.0.0.1:1/"})).json()["id"]
    found["webhook_id"] = found["channel_id"] = hook
    found["host_id"] = (await who.client.post("/v1/hosts", {"type": "byoc"})).json()["host"]["id"]
    found["delivery_id"] = (await who.client.post(f"/v1/channels/{hook}/test")).json()["id"]
    return found


async def ask(client: Client, route: str, given: dict[str, str]) -> int:
    options: dict[str, Any] = {}
    if route in BODIES:
        options["json"] = BODIES[route]
    method = route.partition(" ")[0]
    return (await client.request(method, path_of(route, given), wrong=True, **options)).status_code


@pytest.mark.timeout(300)
async def test_every_route_with_every_credential(matrix: Matrix) -> None:
    wrong: list[str] = []
    for route in [*(one for one in ROUTES if one not in ENDS_SESSION), *ENDS_SESSION]:
        column = CLASSES.index(ACCESS[route])
        for kind, row in EXPECTED.items():
            expected = row[column]
            if expected == YES and route in NEVER_ENDS:
                continue
            given = {"team_id": matrix.teams.get(kind, matrix.owner.team_id)}
            if route.endswith("/leave"):
                given = {}  # the member is still needed
            status = await ask(matrix.clients[kind], route, given)
            allowed = status not in (401, 403) or route.endswith("/leave")
            right = {
                True: allowed,
                False: status in (expected if isinstance(expected, tuple) else (expected,)),
            }
            if not right[expected == YES]:
                wrong.append(f"{route} [{ACCESS[route]}] by {kind}: {status} instead of {expected}")
    assert not wrong, "\n".join(wrong)


async def test_things_of_another_team_are_not_there(matrix: Matrix) -> None:
    wrong: list[str] = []
    tried = 0
    for route in ROUTES:
        names = set(re.findall(r"\{(\w+)\}", route)) & set(matrix.foreign)
        if not names or ACCESS[route] in ("open", "platform", "host"):
            continue
        for kind in ("owner", "member", "key: all", "platform"):
            if kind == "platform" and "host_id" in names:
                continue  # administrators of the platform see to all hosts
            tried += 1
            status = await ask(matrix.clients[kind], route, matrix.foreign)
            # Some bodies are looked at before the thing; what is there must not be told apart from what is not.
            there = await ask(matrix.clients[kind], route, {})
            if status < 400 or status != there:
                wrong.append(f"{route} by {kind}: {status}, and {there} where there is nothing")
    assert tried > 50
    assert not wrong, "\n".join(wrong)
