"""People who sign up, in tests: their mails are taken where they would leave the platform."""

import re
from dataclasses import dataclass
from typing import Any

import pytest

from support.api import Client
from support.simulated import World
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import mail

PASSWORD = "a password of mine"


@dataclass(frozen=True, slots=True)
class Mail:
    to: str
    subject: str
    text: str

    @property
    def token(self) -> str:
        """Of the link in it."""
        found = re.search(r"#token=(\S+)", self.text)
        assert found, self.text
        return found[1]


@dataclass(frozen=True, slots=True)
class Person:
    client: Client
    user_id: str
    team_id: str
    email: str
    refresh_token: str


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Mail] = []

    def send(self, cp: ControlPlane, to: str, subject: str, text: str) -> None:
        self.mails.append(Mail(to, subject, text))

    def take(self, to: str) -> Mail:
        """The last one to this address."""
        found = [one for one in self.mails if one.to == to]
        assert found, f"no mail to {to}"
        self.mails.remove(found[-1])
        return found[-1]


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Mailbox:
    box = Mailbox()
    monkeypatch.setattr(mail, "send", box.send)
    return box


async def sign_up(world: World, mailbox: Mailbox, email: str, name: str = "Ada") -> Person:
    """A new user, logged in, in a team of their own."""
    wanted = {"email": email, "password": PASSWORD, "name": name}
    answer = await world.api.anonymous().post("/v1/auth/signup", wanted)
    assert answer.status_code == 201, answer.text
    token = mailbox.take(email).token
    return person(world, (await world.api.anonymous().post("/v1/auth/activate", {"token": token})).json())


async def log_in(world: World, email: str, password: str = PASSWORD) -> Person:
    answer = await world.api.anonymous().post("/v1/auth/login", {"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    return person(world, answer.json())


async def join(world: World, mailbox: Mailbox, owner: Person, other: Person, role: str) -> Client:
    """Makes `other` a member of the owner's team; a client that works in it."""
    invited = await owner.client.post(
        f"/v1/teams/{owner.team_id}/members", {"email": other.email, "role": role}
    )
    assert invited.status_code == 201, invited.text
    token = mailbox.take(other.email).token
    assert (await other.client.post("/v1/invitations/accept", {"token": token})).status_code == 200
    answer = await other.client.post("/v1/auth/switch-team", {"team_id": owner.team_id})
    return world.api.with_token(answer.json()["token"])


def person(world: World, logged_in: dict[str, Any]) -> Person:
    return Person(
        world.api.with_token(logged_in["token"]),
        logged_in["user_id"],
        logged_in["team_id"],
        logged_in["email"],
        logged_in["refresh_token"],
    )


def code(answer: Any) -> tuple[int, str]:
    """Status and code of a problem."""
    return answer.status_code, answer.json()["error"]["code"]
