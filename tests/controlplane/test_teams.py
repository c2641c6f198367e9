"""Teams: roles, invitations, transfer, deletion; what is taken away is gone at once."""

import asyncio

from support.people import Mailbox, code, join, mailbox, sign_up
from support.simulated import World
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.ids import new_team_id, new_user_id

__all__ = ["mailbox"]


async def test_a_team(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    made = await ada.client.post("/v1/teams", {"name": "Analytical Engine's"})
    assert made.status_code == 201
    team = made.json()
    assert (team["name"], team["role"]) == ("Analytical Engine's", "owner")
    assert [one["id"] for one in (await ada.client.get("/v1/teams")).json()] == [ada.team_id, team["id"]]
    assert (await ada.client.patch(f"/v1/teams/{team['id']}", {"name": "renamed"})).status_code == 204
    found = (await ada.client.get(f"/v1/teams/{team['id']}")).json()
    assert found["team"]["name"] == "renamed"
    assert [(one["email"], one["role"]) for one in found["members"]] == [(ada.email, "owner")]


async def test_an_invitation(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    members = f"/v1/teams/{ada.team_id}/members"
    invited = await ada.client.post(members, {"email": " New@Example.com"})
    assert invited.status_code == 201
    assert invited.json()["email"] == "new@example.com"
    token = mailbox.take("new@example.com").token
    assert token not in (await ada.client.get(f"/v1/teams/{ada.team_id}/invitations")).text
    bob = await sign_up(world, mailbox, "bob@example.com")
    assert code(await bob.client.post("/v1/invitations/accept", {"token": token})) == (403, "other_address")
    new = await sign_up(world, mailbox, "new@example.com")  # had no account when it was invited
    assert (await new.client.post("/v1/invitations/accept", {"token": token})).json()["role"] == "member"
    assert code(await new.client.post("/v1/invitations/accept", {"token": token})) == (400, "invalid_token")
    assert len((await ada.client.get(members)).json()) == 2
    assert code(await ada.client.post(members, {"email": new.email})) == (409, "already_member")
    assert (await ada.client.get(f"/v1/teams/{ada.team_id}/invitations")).json() == []


async def test_an_invitation_that_does_not_hold_any_more(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    bob = await sign_up(world, mailbox, "bob@example.com")
    members = f"/v1/teams/{ada.team_id}/members"
    first = await ada.client.post(members, {"email": bob.email})
    old = mailbox.take(bob.email).token
    await ada.client.post(members, {"email": bob.email, "role": "admin"})
    token = mailbox.take(bob.email).token
    assert code(await bob.client.post("/v1/invitations/accept", {"token": old})) == (400, "invalid_token")
    path = f"/v1/teams/{ada.team_id}/invitations/{first.json()['id']}"
    assert (await bob.client.delete(path)).status_code == 404
    assert (await ada.client.delete(path)).status_code == 204
    assert code(await bob.client.post("/v1/invitations/accept", {"token": token})) == (400, "invalid_token")
    await ada.client.post(members, {"email": bob.email})
    await world.cp.db.execute("UPDATE invitations SET expires_at = now()")
    token = mailbox.take(bob.email).token
    assert code(await bob.client.post("/v1/invitations/accept", {"token": token})) == (400, "invalid_token")


async def test_roles(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    bob, cleo = [await sign_up(world, mailbox, f"{name}@example.com") for name in ("bob", "cleo")]
    as_admin = await join(world, mailbox, ada, bob, "admin")
    as_member = await join(world, mailbox, ada, cleo, "member")
    team = f"/v1/teams/{ada.team_id}"
    for method, path, body in (
        ("PATCH", team, {"name": "x"}),
        ("POST", f"{team}/members", {"email": "x@example.com"}),
        ("PATCH", f"{team}/members/{bob.user_id}", {"role": "member"}),
        ("DELETE", f"{team}/members/{bob.user_id}", None),
        ("GET", f"{team}/invitations", None),
    ):
        client = as_member.patch if method == "PATCH" else as_member.post
        answer = await (as_member.request(method, path) if body is None else client(path, body))
        assert code(answer) == (403, "role_required"), f"{method} {path}"
    assert (await as_member.get(team)).status_code == 200
    assert code(await as_admin.delete(team)) == (403, "role_required")
    assert code(await as_admin.post(f"{team}/transfer", {"user_id": bob.user_id})) == (403, "role_required")
    owner = f"{team}/members/{ada.user_id}"
    assert code(await as_admin.patch(owner, {"role": "member"})) == (403, "is_owner")
    assert code(await as_admin.delete(owner)) == (403, "is_owner")
    assert code(await ada.client.post(f"{team}/leave")) == (403, "is_owner")
    assert (await as_admin.patch(f"{team}/members/{cleo.user_id}", {"role": "admin"})).status_code == 204
    assert (await as_member.patch(team, {"name": "x"})).status_code == 204, "the same token, at once"
    assert (await as_member.patch(f"{team}/members/{cleo.user_id}", {"role": "member"})).status_code == 204
    assert code(await as_member.patch(team, {"name": "y"})) == (403, "role_required")
    assert (await as_member.post(f"{team}/leave")).status_code == 204
    assert (await as_member.get("/v1/sandboxes")).status_code == 401
    assert (await ada.client.delete(f"{team}/members/{new_user_id()}")).status_code == 404


async def test_a_team_changes_hands(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    bob = await sign_up(world, mailbox, "bob@example.com")
    team = f"/v1/teams/{ada.team_id}"
    assert (await ada.client.post(f"{team}/transfer", {"user_id": bob.user_id})).status_code == 404
    as_bob = await join(world, mailbox, ada, bob, "member")
    assert (await ada.client.post(f"{team}/transfer", {"user_id": bob.user_id})).status_code == 204
    assert [(one["email"], one["role"]) for one in (await as_bob.get(f"{team}/members")).json()] == [
        (ada.email, "admin"),
        (bob.email, "owner"),
    ]


async def test_owners_at_once_leave_one_owner(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    others = [await sign_up(world, mailbox, f"{n}@example.com") for n in range(3)]
    for other in others:
        await join(world, mailbox, ada, other, "admin")
    answers = await asyncio.gather(
        *(ada.client.post(f"/v1/teams/{ada.team_id}/transfer", {"user_id": one.user_id}) for one in others)
    )
    assert sorted(answer.status_code for answer in answers) == [204, 403, 403]
    roles = [one["role"] for one in (await ada.client.get(f"/v1/teams/{ada.team_id}/members")).json()]
    assert roles.count("owner") == 1


async def test_other_teams_are_not_there(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    bob = await sign_up(world, mailbox, "bob@example.com")
    for team_id in (ada.team_id, new_team_id(), "nonsense", "%00", "team_" + "é" * 20):
        for method, path in (("GET", ""), ("GET", "/members"), ("DELETE", ""), ("POST", "/leave")):
            answer = await bob.client.request(method, f"/v1/teams/{team_id}{path}", wrong=True)
            assert answer.status_code in (404, 400), f"{method} {team_id}{path}: {answer.text}"


async def test_a_team_is_deleted(world: World, mailbox: Mailbox, host: SimulatedAgent) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    assert code(await ada.client.delete(f"/v1/teams/{ada.team_id}")) == (409, "last_team")
    key = (await ada.client.post("/v1/api-keys", {})).json()["key"]
    running = (await ada.client.post("/v1/sandboxes", {})).json()["id"]
    paused = (await ada.client.post("/v1/sandboxes", {})).json()["id"]
    await ada.client.post(f"/v1/sandboxes/{paused}/pause")
    other = (await ada.client.post("/v1/teams", {"name": "other"})).json()["id"]
    assert (await ada.client.delete(f"/v1/teams/{ada.team_id}")).status_code == 204
    assert (await ada.client.get("/v1/sandboxes")).status_code == 401
    assert code(await world.api.with_key(key).post("/v1/sandboxes", {})) == (401, "invalid_api_key")
    async with asyncio.timeout(20):
        while {row["state"] for row in await world.cp.db.fetch("SELECT state FROM sandboxes")} != {"killed"}:  # noqa: ASYNC110 - in the background
            await asyncio.sleep(0.02)
    assert {running, paused} == {row["id"] for row in await world.cp.db.fetch("SELECT id FROM sandboxes")}
    again = await world.api.anonymous().post("/v1/auth/refresh", {"refresh_token": ada.refresh_token})
    assert again.json()["team_id"] == other
