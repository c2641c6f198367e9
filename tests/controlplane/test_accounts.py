"""People: sign-up, activation, passwords, profile, deletion; nobody learns who has an account."""

import asyncio
import email
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support.people import PASSWORD, Mailbox, code, join, log_in, mailbox, sign_up
from support.simulated import World, control_plane
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.services import attempts
from wrenn_server.controlplane.smtp import Smtp
from wrenn_server.hostagent.simulated import SimulatedAgent

__all__ = ["mailbox"]

ADA = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}


async def test_sign_up(world: World, mailbox: Mailbox) -> None:
    anonymous = world.api.anonymous()
    assert (await anonymous.post("/v1/auth/signup", {**ADA, "email": " Ada@Example.com "})).status_code == 201
    login = {"email": ADA["email"], "password": PASSWORD}
    assert code(await anonymous.post("/v1/auth/login", login)) == (403, "account_not_activated")
    token = mailbox.take(ADA["email"]).token
    answer = await anonymous.post("/v1/auth/activate", {"token": token})
    assert answer.status_code == 200
    assert code(await anonymous.post("/v1/auth/activate", {"token": token})) == (400, "invalid_token")
    assert (await anonymous.post("/v1/auth/login", login)).status_code == 200
    me = (await world.api.with_token(answer.json()["token"]).get("/v1/me")).json()
    assert (me["email"], me["name"], me["role"], me["is_admin"], me["has_password"]) == (
        ADA["email"], "Ada", "owner", False, True,
    )  # fmt: skip


async def test_an_answer_does_not_tell_who_has_an_account(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, ADA["email"])
    anonymous = world.api.anonymous()
    known = await anonymous.post("/v1/auth/signup", {**ADA, "password": "another password"})
    unknown = await anonymous.post("/v1/auth/signup", {**ADA, "email": "nobody@example.com"})
    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())
    assert "#token" not in mailbox.take(ADA["email"]).text
    await log_in(world, ada.email)  # its password has not changed
    for address in (ada.email, "stranger@example.com"):
        answer = await anonymous.post("/v1/me/password/reset", {"email": address})
        assert (answer.status_code, answer.content) == (204, b"")
    assert [one.to for one in mailbox.mails if one.subject == "Set a new password"] == [ada.email]


async def test_a_second_sign_up_takes_the_place_of_one_that_was_never_activated(
    world: World, mailbox: Mailbox
) -> None:
    anonymous = world.api.anonymous()
    await anonymous.post("/v1/auth/signup", ADA)
    first = mailbox.take(ADA["email"]).token
    await anonymous.post("/v1/auth/signup", {**ADA, "password": "the second password"})
    assert code(await anonymous.post("/v1/auth/activate", {"token": first})) == (400, "invalid_token")
    token = mailbox.take(ADA["email"]).token
    assert (await anonymous.post("/v1/auth/activate", {"token": token})).status_code == 200
    await log_in(world, ADA["email"], "the second password")


async def test_sign_ups_at_once_make_one_account(world: World, mailbox: Mailbox) -> None:
    answers = await asyncio.gather(
        *(world.api.anonymous().post("/v1/auth/signup", ADA) for _ in range(attempts.MAIL_TO.at_once))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert await world.cp.db.fetchval("SELECT count(*) FROM users WHERE email = $1", ADA["email"]) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"email": "no address"}, {"email": "a@b\tc"}, {"password": "short"}, {"name": ""}, {"name": "a\nb"}],
    ids=str,
)
async def test_a_sign_up_that_will_not_do(world: World, mailbox: Mailbox, wrong: dict[str, str]) -> None:
    answer = await world.api.anonymous().post("/v1/auth/signup", {**ADA, **wrong}, wrong=True)
    assert answer.status_code == 400
    assert not mailbox.mails


async def test_an_old_link(world: World, mailbox: Mailbox) -> None:
    await world.api.anonymous().post("/v1/auth/signup", ADA)
    await world.cp.db.execute("UPDATE user_tokens SET expires_at = now()")
    token = mailbox.take(ADA["email"]).token
    assert code(await world.api.anonymous().post("/v1/auth/activate", {"token": token})) == (
        400,
        "invalid_token",
    )


async def test_a_password_is_changed(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, ADA["email"])
    elsewhere = await log_in(world, ada.email)
    change = {"current_password": "wrong", "new_password": "the next password"}
    assert code(await ada.client.post("/v1/me/password", change)) == (401, "wrong_password")
    change["current_password"] = PASSWORD
    assert (await ada.client.post("/v1/me/password", change)).status_code == 204
    assert (await ada.client.get("/v1/me")).status_code == 200
    assert code(await elsewhere.client.get("/v1/me")) == (401, "session_ended")
    await log_in(world, ada.email, "the next password")


async def test_a_forgotten_password(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, ADA["email"])
    anonymous = world.api.anonymous()
    await anonymous.post("/v1/me/password/reset", {"email": ada.email})
    token = mailbox.take(ada.email).token
    confirm = {"token": token, "new_password": "the next password"}
    assert code(await anonymous.post("/v1/auth/activate", {"token": token})) == (400, "invalid_token"), (
        "a link is good for one purpose"
    )
    short = await anonymous.post("/v1/me/password/reset/confirm", {**confirm, "new_password": "short"})
    assert code(short) == (400, "password_too_short"), "which does not use the link up"
    assert (await anonymous.post("/v1/me/password/reset/confirm", confirm)).status_code == 204
    assert code(await anonymous.post("/v1/me/password/reset/confirm", confirm)) == (400, "invalid_token")
    assert code(await ada.client.get("/v1/me")) == (401, "session_ended")
    await log_in(world, ada.email, "the next password")


async def test_mails_to_one_address_are_few(world: World, mailbox: Mailbox) -> None:
    for _ in range(attempts.MAIL_TO.at_once):
        await world.api.anonymous().post("/v1/auth/signup", ADA)
    assert code(await world.api.anonymous().post("/v1/auth/signup", ADA)) == (429, "rate_limited")
    assert len(mailbox.mails) == attempts.MAIL_TO.at_once


async def test_a_name_is_changed_and_the_team_is_not(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, ADA["email"])
    bob = await sign_up(world, mailbox, "bob@example.com")
    in_ada_s = await join(world, mailbox, ada, bob, "member")
    answer = await in_ada_s.patch("/v1/me", {"name": "Robert"})
    assert (answer.json()["name"], answer.json()["team_id"]) == ("Robert", ada.team_id)


async def test_an_account_is_deleted_with_what_nobody_else_has(
    world: World, mailbox: Mailbox, host: SimulatedAgent
) -> None:
    ada = await sign_up(world, mailbox, ADA["email"])
    bob = await sign_up(world, mailbox, "bob@example.com")
    shared = (await ada.client.post("/v1/teams", {"name": "shared"})).json()["id"]
    token = (await ada.client.post("/v1/auth/switch-team", {"team_id": shared})).json()["token"]
    in_shared = world.api.with_token(token)
    await in_shared.post(f"/v1/teams/{shared}/members", {"email": bob.email})
    invitation = mailbox.take(bob.email).token
    await bob.client.post("/v1/invitations/accept", {"token": invitation})
    key = (await ada.client.post("/v1/api-keys", {})).json()["key"]
    sandbox = (await ada.client.post("/v1/sandboxes", {})).json()["id"]
    confirm = {"json": {"confirmation": ada.email}}
    assert code(await ada.client.delete("/v1/me", json={"confirmation": bob.email})) == (400, "not_confirmed")
    assert code(await ada.client.delete("/v1/me", **confirm)) == (409, "owns_team_with_members")
    assert (await in_shared.post(f"/v1/teams/{shared}/transfer", {"user_id": bob.user_id})).status_code == 204
    assert (await ada.client.delete("/v1/me", **confirm)).status_code == 204
    assert (await ada.client.get("/v1/me")).status_code == 401
    assert code(await world.api.with_key(key).get("/v1/sandboxes")) == (401, "invalid_api_key")
    async with asyncio.timeout(20):
        while await world.cp.db.fetchval("SELECT state FROM sandboxes WHERE id = $1", sandbox) != "killed":  # noqa: ASYNC110 - in the background
            await asyncio.sleep(0.02)
    listed = (await bob.client.get("/v1/teams")).json()
    assert {team["name"]: team["role"] for team in listed}["shared"] == "owner"
    row = await world.cp.db.fetchrow("SELECT t::text AS row FROM users t WHERE id = $1", ada.user_id)
    assert row is not None
    assert "ada" not in row["row"].lower()
    await sign_up(world, mailbox, ada.email)  # the address is free


async def test_the_last_administrator_stays(world: World) -> None:
    answer = await world.user.delete("/v1/me", json={"confirmation": world.admin.admin_email})
    assert code(answer) == (409, "last_admin")


async def test_administration_of_users(world: World, mailbox: Mailbox) -> None:
    ada = await sign_up(world, mailbox, ADA["email"])
    assert (await ada.client.get("/v1/admin/users")).status_code == 403
    listed = (await world.user.get("/v1/admin/users?limit=1")).json()
    assert [one["email"] for one in listed] == [ada.email]
    rest = (await world.user.get(f"/v1/admin/users?cursor={listed[0]['id']}")).json()
    assert [one["email"] for one in rest] == [world.admin.admin_email]
    assert (rest[0]["teams_joined"], rest[0]["teams_owned"]) == (1, 1)
    path = f"/v1/admin/users/{ada.user_id}"
    assert (await world.user.patch(path, {"active": False})).status_code == 204
    assert (await ada.client.get("/v1/me")).status_code == 401
    assert (await world.user.patch(path, {"active": True, "is_admin": True})).status_code == 204
    again = await log_in(world, ada.email)
    assert (await again.client.get("/v1/admin/users")).status_code == 200
    own = f"/v1/admin/users/{world.admin.user_id}"
    assert code(await world.user.patch(own, {"is_admin": False})) == (409, "own_account")
    assert (await again.client.patch(own, {"is_admin": False})).status_code == 204
    assert (await world.user.get("/v1/admin/users")).status_code == 403


async def test_a_link_from_an_administrator_s_command_line(world: World) -> None:
    """Without a mail server."""
    await world.api.anonymous().post("/v1/auth/signup", ADA)
    link = await bootstrap.link(world.cp.db, world.url, ADA["email"], "activate")
    token = link.partition("#token=")[2]
    assert (await world.api.anonymous().post("/v1/auth/activate", {"token": token})).status_code == 200
    link = await bootstrap.link(world.cp.db, world.url, ADA["email"], "reset")
    confirm = {"token": link.partition("#token=")[2], "new_password": "the next password"}
    assert (await world.api.anonymous().post("/v1/me/password/reset/confirm", confirm)).status_code == 204


async def test_a_platform_that_takes_no_sign_ups(database_url: str) -> None:
    async with control_plane(database_url, signup=False) as closed:
        assert code(await closed.api.anonymous().post("/v1/auth/signup", ADA)) == (403, "signup_closed")


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mails and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Dialogue)
        self.mails: list[tuple[str, bytes]] = []
        self.arrived = threading.Event()


class _Dialogue(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.say("220 test")
        to = ""
        while line := self.rfile.readline().decode().strip():
            word = line.upper()
            if word == "DATA":
                self.say("354 go on")
                content = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    content += part
                assert isinstance(self.server, MailServer)
                self.server.mails.append((to, content))
                self.server.arrived.set()
            elif word.startswith("RCPT TO:"):
                to = line[8:].strip(" <>")
            elif word == "QUIT":
                self.say("221 bye")
                return
            self.say("250 ok")

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_mail_by_smtp(database_url: str, mail_server: MailServer) -> None:
    smtp = Smtp.parse(f"smtp://127.0.0.1:{mail_server.server_address[1]}")
    settings: dict[str, Any] = {
        "smtp": smtp,
        "mail_from": "Wrenn <w@example.com>",
        "public_url": "https://wrenn.example",
    }
    async with control_plane(database_url, **settings) as running:
        name = "Ada Lovelace-Būké"
        assert (
            await running.api.anonymous().post("/v1/auth/signup", {**ADA, "name": name})
        ).status_code == 201
        assert await asyncio.to_thread(mail_server.arrived.wait, 20)
    ((to, content),) = mail_server.mails
    assert to == ADA["email"]
    message = email.message_from_bytes(content)
    assert message["From"] == "Wrenn <w@example.com>"
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert f"Hello {name}," in payload.decode()
    assert "https://wrenn.example/activate#token=" in payload.decode()
