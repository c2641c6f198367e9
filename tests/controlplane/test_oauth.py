"""Log-in with GitHub, against a server that speaks OAuth as GitHub does."""

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from support.people import Mailbox, Person, code, mailbox, sign_up
from support.simulated import World, control_plane
from wrenn_server.controlplane.config import GitHub

__all__ = ["mailbox"]

BEGIN = "/v1/auth/oauth/github"
CALLBACK = BEGIN + "/callback"


@dataclass
class FakeGitHub:
    """Gives one token for a code, to who has its verifier."""

    user: dict[str, Any] = field(default_factory=lambda: {"id": 7, "login": "ada", "name": "Ada L."})
    emails: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"email": "unproven@example.com", "primary": True, "verified": False},
            {"email": "Ada@Example.com", "primary": False, "verified": True},
        ]
    )
    challenges: dict[str, str] = field(default_factory=dict[str, str])
    broken: bool = False
    url: str = ""

    def authorize(self, location: str) -> tuple[str, str]:
        """What a user who agrees is led back with: code and state."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        assert location.startswith(f"{self.url}/login/oauth/authorize?")
        assert query["code_challenge_method"] == "S256"
        assert query["redirect_uri"].endswith(CALLBACK)
        made = secrets.token_hex(8)
        self.challenges[made] = query["code_challenge"]
        return made, query["state"]

    def answer(self, method: str, path: str, form: dict[str, list[str]], token: str) -> tuple[int, Any]:
        if self.broken:
            return 200, "<html>"
        if (method, path) == ("POST", "/login/oauth/access_token"):
            verifier = form["code_verifier"][0]
            challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
            right = self.challenges.pop(form["code"][0], None) == challenge.decode()
            if not right or form["client_secret"] != ["a secret"]:
                return 200, {"error": "bad_verification_code"}  # GitHub says 200 to this
            return 200, {"access_token": "gho_token", "token_type": "bearer"}
        if token != "Bearer gho_token":
            return 401, {"message": "Bad credentials"}
        return 200, self.user if path == "/user" else self.emails


@asynccontextmanager
async def serving(github: FakeGitHub) -> AsyncGenerator[None]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = lines[0].split(" ")
        status, content = github.answer(
            method, path, parse_qs(body.decode()), headers.get("authorization", "")
        )
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        writer.write(
            b"HTTP/1.1 %d x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(data), data)
        )
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        github.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield


@pytest.fixture
async def github() -> AsyncIterator[FakeGitHub]:
    made = FakeGitHub()
    async with serving(made):
        yield made


async def log_in(running: World, github: FakeGitHub) -> tuple[str, dict[str, str]]:
    """Where the browser ends up, and its cookies."""
    begun = await running.api.raw("GET", BEGIN)
    assert begun.status_code == 302
    return await come_back(running, github, begun)


async def come_back(running: World, github: FakeGitHub, begun: Any) -> tuple[str, dict[str, str]]:
    made, state = github.authorize(begun.headers["location"])
    cookie = begun.headers["set-cookie"].partition(";")[0]
    answer = await running.api.raw(
        "GET", CALLBACK, params={"code": made, "state": state}, headers={"Cookie": cookie}
    )
    assert answer.status_code == 302
    cookies = [text.partition(";")[0].partition("=") for text in answer.headers.get_list("set-cookie")]
    return answer.headers["location"], {name: value for name, _, value in cookies}


def browser(running: World, cookies: dict[str, str]) -> Any:
    text = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return running.api.with_headers(Cookie=text, X_CSRF_Token=cookies.get("wrenn_csrf", ""))


@pytest.fixture
async def platform(database_url: str, github: FakeGitHub) -> AsyncIterator[World]:
    settings = GitHub("an id", "a secret", github.url, github.url)
    async with control_plane(database_url, github=settings, public_url="http://wrenn.example") as running:
        yield running


async def test_a_log_in_makes_an_account_once(platform: World, github: FakeGitHub) -> None:
    location, cookies = await log_in(platform, github)
    assert location == "http://wrenn.example/"
    on_record = await platform.cp.db.fetchrow("SELECT * FROM audit_logs WHERE operation = 'finishOAuth'")
    assert on_record is not None
    assert (on_record["actor_type"], on_record["actor_name"], on_record["code"]) == (
        "user",
        "ada@example.com",
        None,
    )
    me = (await browser(platform, cookies).get("/v1/me")).json()
    assert (me["email"], me["name"], me["has_password"], me["providers"]) == (
        "ada@example.com", "Ada L.", False, ["github"],
    )  # fmt: skip
    github.emails = []
    github.user["login"] = "renamed"
    _, again = await log_in(platform, github)
    assert (await browser(platform, again).get("/v1/me")).json()["id"] == me["id"]
    assert code(await browser(platform, again).delete("/v1/me/providers/github")) == (
        409,
        "last_login_method",
    )
    assert (
        await browser(platform, again).post("/v1/me/password", {"new_password": "my first password"})
    ).status_code == 204
    assert (await browser(platform, again).delete("/v1/me/providers/github")).status_code == 204


async def test_an_address_that_is_known_here_is_not_taken_over(
    platform: World, github: FakeGitHub, mailbox: Mailbox
) -> None:
    ada = await sign_up(platform, mailbox, "ada@example.com")
    location, cookies = await log_in(platform, github)
    assert location == "http://wrenn.example/?error=email_taken"
    on_record = await platform.cp.db.fetchrow("SELECT * FROM audit_logs WHERE operation = 'finishOAuth'")
    assert on_record is not None
    assert (on_record["actor_type"], on_record["code"]) == ("anonymous", "email_taken")
    assert not cookies.get("wrenn_session")
    await link(platform, github, ada)
    _, cookies = await log_in(platform, github)
    assert (await browser(platform, cookies).get("/v1/me")).json()["id"] == ada.user_id


async def link(platform: World, github: FakeGitHub, who: Person) -> str:
    begun = await who.client.get("/v1/me/providers/github/connect")
    return (await come_back(platform, github, begun))[0]


async def test_an_account_elsewhere_belongs_to_one_here(
    platform: World, github: FakeGitHub, mailbox: Mailbox
) -> None:
    ada = await sign_up(platform, mailbox, "ada@example.com")
    bob = await sign_up(platform, mailbox, "bob@example.com")
    assert "error" not in await link(platform, github, ada)
    assert "error" not in await link(platform, github, ada)
    assert (await link(platform, github, bob)).endswith("?error=already_linked")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"code": ""}, "access_denied"),
        ({"state": "x"}, "invalid_state"),
        ({"cookie": "wrenn_oauth=nonsense"}, "invalid_state"),
        ({"cookie": ""}, "invalid_state"),
        ({"code": "unknown"}, "exchange_failed"),
    ],
    ids=str,
)
async def test_a_way_back_that_is_not_right(
    platform: World, github: FakeGitHub, change: dict[str, str], expected: str
) -> None:
    begun = await platform.api.raw("GET", BEGIN)
    made, state = github.authorize(begun.headers["location"])
    given = {"code": made, "state": state, "cookie": begun.headers["set-cookie"].partition(";")[0], **change}
    cookie = given.pop("cookie")
    answer = await platform.api.raw("GET", CALLBACK, params=given, headers={"Cookie": cookie})
    assert answer.headers["location"] == f"http://wrenn.example/?error={expected}"
    assert "wrenn_session=" not in str(answer.headers.get_list("set-cookie"))


async def test_somebody_without_a_proven_address(platform: World, github: FakeGitHub) -> None:
    github.emails = github.emails[:1]
    assert (await log_in(platform, github))[0].endswith("?error=no_email")


async def test_a_site_that_does_not_do_as_it_should(platform: World, github: FakeGitHub) -> None:
    github.broken = True
    assert (await log_in(platform, github))[0].endswith("?error=exchange_failed")


async def test_who_is_disabled_stays_out(platform: World, github: FakeGitHub) -> None:
    await log_in(platform, github)
    await platform.cp.db.execute("UPDATE users SET status = 'disabled' WHERE email = 'ada@example.com'")
    assert (await log_in(platform, github))[0].endswith("?error=account_disabled")


async def test_without_such_an_app(world: World) -> None:
    assert code(await world.api.raw("GET", BEGIN)) == (404, "provider_not_found")
    assert code(await world.api.raw("GET", BEGIN.replace("github", "other"))) == (404, "provider_not_found")
