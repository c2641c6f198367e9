"""Log-ins: refresh tokens that turn over, cookies of browsers, log-outs that work at once, limits."""

import asyncio

import pytest

from support.people import PASSWORD, Mailbox, code, join, log_in, mailbox, sign_up
from support.simulated import World
from wrenn_server.controlplane.services import attempts

__all__ = ["mailbox"]


async def test_a_refresh_token_gets_the_next_one(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    anonymous = world.api.anonymous()
    answer = await anonymous.post("/v1/auth/refresh", {"refresh_token": ada.refresh_token})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    second = answer.json()
    assert second["refresh_token"] != ada.refresh_token
    assert (await world.api.with_token(second["token"]).get("/v1/me")).status_code == 200
    third = await anonymous.post("/v1/auth/refresh", {"refresh_token": second["refresh_token"]})
    assert third.status_code == 200


async def test_an_answer_with_a_refresh_token_may_be_lost(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    body = {"refresh_token": ada.refresh_token}
    assert (await world.api.anonymous().post("/v1/auth/refresh", body)).status_code == 200
    again = await world.api.anonymous().post("/v1/auth/refresh", body)
    assert again.status_code == 200
    assert (await world.api.with_token(again.json()["token"]).get("/v1/me")).status_code == 200


async def test_a_stolen_refresh_token_ends_the_session(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    body = {"refresh_token": ada.refresh_token}
    mine = (await world.api.anonymous().post("/v1/auth/refresh", body)).json()
    await world.cp.db.execute("UPDATE sessions SET rotated_at = now() - interval '61 seconds'")
    assert code(await world.api.anonymous().post("/v1/auth/refresh", body)) == (401, "session_ended")
    assert code(await world.api.with_token(mine["token"]).get("/v1/me")) == (401, "session_ended")
    assert code(
        await world.api.anonymous().post("/v1/auth/refresh", {"refresh_token": mine["refresh_token"]})
    ) == (
        401,
        "unauthorized",
    )


async def test_a_log_out_works_at_once(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    elsewhere = await log_in(world, ada.email)
    assert (await ada.client.post("/v1/auth/logout")).status_code == 204
    assert code(await ada.client.get("/v1/me")) == (401, "session_ended")
    assert (await elsewhere.client.get("/v1/me")).status_code == 200


async def test_sessions_are_listed_and_ended(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    phone, laptop = await log_in(world, ada.email), await log_in(world, ada.email)
    listed = (await ada.client.get("/v1/me/sessions")).json()
    assert len(listed) == 3
    assert [one["current"] for one in listed] == [False, False, True]
    assert {one["address"] for one in listed} == {"127.0.0.1"}
    bob = await sign_up(world, mailbox, "bob@example.com")
    assert (await bob.client.delete(f"/v1/me/sessions/{listed[0]['id']}")).status_code == 404
    assert (await ada.client.delete(f"/v1/me/sessions/{listed[0]['id']}")).status_code == 204
    assert code(await laptop.client.get("/v1/me")) == (401, "session_ended")
    assert (await phone.client.get("/v1/me")).status_code == 200
    assert (await ada.client.delete("/v1/me/sessions")).status_code == 204
    assert code(await phone.client.get("/v1/me")) == (401, "session_ended")
    assert (await ada.client.get("/v1/me")).status_code == 200


async def test_a_browser_s_session(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    answer = await world.api.anonymous().post(
        "/v1/auth/login", {"email": ada.email, "password": PASSWORD, "cookie": True}
    )
    body = answer.json()
    assert "token" not in body
    assert "refresh_token" not in body
    set_cookies = answer.headers.get_list("set-cookie")
    session = next(text for text in set_cookies if text.startswith("wrenn_session="))
    assert "HttpOnly" in session
    assert "samesite=strict" in session.lower()
    secret = session.partition("=")[2].partition(";")[0]
    assert secret not in answer.text
    cookies = f"wrenn_session={secret}; wrenn_csrf={body['csrf_token']}"
    browser = world.api.with_headers(Cookie=cookies)
    assert (await browser.get("/v1/me")).json()["email"] == ada.email
    # Another site's page can have the cookie sent, but not read it.
    assert code(await browser.post("/v1/api-keys", {})) == (403, "csrf")
    forged = world.api.with_headers(Cookie=cookies, X_CSRF_Token="0" * 40)
    assert code(await forged.post("/v1/api-keys", {})) == (403, "csrf")
    page = world.api.with_headers(Cookie=cookies, X_CSRF_Token=body["csrf_token"])
    assert (await page.post("/v1/api-keys", {})).status_code == 201
    out = await page.post("/v1/auth/logout")
    assert out.status_code == 204
    assert any("Max-Age=0" in text for text in out.headers.get_list("set-cookie"))
    assert code(await browser.get("/v1/me")) == (401, "unauthorized")


async def test_a_session_that_has_run_out(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    await world.cp.db.execute("UPDATE sessions SET expires_at = now()")
    assert code(await ada.client.get("/v1/me")) == (401, "session_ended")
    answer = await world.api.anonymous().post("/v1/auth/refresh", {"refresh_token": ada.refresh_token})
    assert code(answer) == (401, "unauthorized")


async def test_switching_teams(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    bob = await sign_up(world, mailbox, "bob@example.com")
    assert code(await bob.client.post("/v1/auth/switch-team", {"team_id": ada.team_id})) == (
        403,
        "not_a_member",
    )
    in_ada_s = await join(world, mailbox, ada, bob, "member")
    assert (await in_ada_s.get("/v1/me")).json()["team_id"] == ada.team_id
    assert (await bob.client.get("/v1/me")).json()["team_id"] == bob.team_id, "a token's team does not change"
    answer = await world.api.anonymous().post("/v1/auth/refresh", {"refresh_token": bob.refresh_token})
    assert answer.json()["team_id"] == ada.team_id, "the session's does"
    await ada.client.delete(f"/v1/teams/{ada.team_id}/members/{bob.user_id}")
    assert (await in_ada_s.get("/v1/me")).status_code == 401
    refreshed = await world.api.anonymous().post(
        "/v1/auth/refresh", {"refresh_token": answer.json()["refresh_token"]}
    )
    assert refreshed.json()["team_id"] == bob.team_id


async def test_guessing_a_password_is_slow(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    wrong = {"email": ada.email, "password": "not it"}
    answers = await asyncio.gather(
        *(world.api.anonymous().post("/v1/auth/login", wrong) for _ in range(attempts.LOGIN_OF.at_once + 5))
    )
    assert sorted(answer.status_code for answer in answers) == [401] * attempts.LOGIN_OF.at_once + [429] * 5
    right = {"email": ada.email, "password": PASSWORD}
    assert code(await world.api.anonymous().post("/v1/auth/login", right)) == (429, "rate_limited")
    # Nobody else is held up, and time heals it.
    await sign_up(world, mailbox, "bob@example.com")
    await world.cp.db.execute("UPDATE attempts SET updated_at = updated_at - interval '91 seconds'")
    assert (await world.api.anonymous().post("/v1/auth/login", right)).status_code == 200


async def test_log_ins_that_succeed_are_not_counted(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    for _ in range(attempts.LOGIN_OF.at_once + 2):
        await log_in(world, ada.email)


@pytest.mark.parametrize(
    ("status", "expected"), [("pending", "account_not_activated"), ("disabled", "account_disabled")]
)
async def test_who_may_not_log_in_learns_why_with_the_right_password_alone(
    world: World, mailbox: Mailbox, status: str, expected: str
) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    await world.cp.db.execute("UPDATE users SET status = $1 WHERE id = $2", status, ada.user_id)
    anonymous = world.api.anonymous()
    assert code(await anonymous.post("/v1/auth/login", {"email": ada.email, "password": "wrong"})) == (
        401,
        "wrong_credentials",
    )
    assert code(await anonymous.post("/v1/auth/login", {"email": ada.email, "password": PASSWORD})) == (
        403,
        expected,
    )


async def test_secrets_of_sessions_are_not_in_the_database(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, "ada@example.com")
    for record in await world.cp.db.fetch("SELECT t::text AS row FROM sessions t"):
        assert ada.refresh_token not in record["row"]
