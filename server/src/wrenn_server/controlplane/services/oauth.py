"""Log-in with GitHub: OAuth 2.0 with PKCE (RFC 6749, RFC 7636).

```
begin ──► state and verifier in a signed cookie, 10 minutes ──► GitHub ──► callback: state must be the cookie's
      ──► token ──► who it is, and an address that GitHub has verified
```
An account is never joined with one of the same address here by itself: who controls an address elsewhere is not who set
the password here. The user links the two when logged in.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlencode

import httpx2
import msgspec
import structlog

from wrenn_server.controlplane.config import GitHub
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.keys import OAuthClaims
from wrenn_server.controlplane.services import accounts, attempts, sessions, teams
from wrenn_server.controlplane.services.sessions import Client, Login
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db import identities as db_identities
from wrenn_server.db import users as db_users
from wrenn_server.db.users import UserRow
from wrenn_server.model.errors import Conflict, NotFound, Unauthorized, WrennError
from wrenn_server.model.ids import new_user_id

PROVIDER = "github"
STATE_SEC = 600
TIMEOUT_SEC = 15.0
_ANSWER_SIZE = 1024 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Begun:
    url: str
    """Where the browser goes."""
    state: str = field(repr=False)
    """For a cookie of the browser."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as GitHub knows them."""

    subject: str
    login: str
    name: str
    email: str | None
    """None: they have no verified address."""


class Refused(Exception):
    """Ends at the page that began it. `reason` is one of the words of docs/people.md."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Token(msgspec.Struct):
    access_token: str = ""


class _User(msgspec.Struct):
    id: int
    login: str
    name: str | None = None


class _Email(msgspec.Struct):
    email: str
    primary: bool = False
    verified: bool = False


async def begin(cp: ControlPlane, provider: str, caller: Caller | None) -> Begun:
    """
    :param caller: who links GitHub with their account; None: a log-in
    :raises NotFound: this platform has no such provider
    """
    github = _configured(cp, provider)
    verifier = secrets.token_urlsafe(48)
    nonce = secrets.token_urlsafe(24)
    state = cp.keys.oauth_state(OAuthClaims(nonce, verifier, caller.user_id if caller else None), STATE_SEC)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "client_id": github.client_id,
        "redirect_uri": callback_url(cp),
        "scope": "read:user user:email",
        "state": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    return Begun(f"{github.url}/login/oauth/authorize?{urlencode(query)}", state)


async def finish(
    cp: ControlPlane, provider: str, *, code: str | None, nonce: str | None, state: str | None, client: Client
) -> Login | None:
    """A browser's session; None when the two accounts have been linked.

    :raises NotFound: :raises Refused: :raises RateLimited:
    """
    github = _configured(cp, provider)
    await attempts.take(cp, attempts.LOGIN_FROM, client.address)
    try:
        claims = cp.keys.read_oauth_state(state or "")
    except Unauthorized as error:
        raise Refused("invalid_state") from error
    if not hmac.compare_digest(claims.nonce.encode(), (nonce or "").encode()):
        raise Refused("invalid_state")
    if not code:
        raise Refused("access_denied")
    try:
        person = await _identify(github, code, claims.verifier, callback_url(cp))
    except (httpx2.HTTPError, msgspec.MsgspecError, ValueError) as error:
        log.warning("GitHub did not identify a user", action="oauth_failed", error=repr(error))
        raise Refused("exchange_failed") from error
    if claims.user_id is not None:
        await _link(cp, claims.user_id, person)
        return None
    try:
        return await sessions.begin(cp, await _user(cp, person), client, "cookie")
    except WrennError as error:
        raise Refused(error.code) from error


async def unlink(cp: ControlPlane, caller: Caller, provider: str) -> None:
    """:raises NotFound: :raises Conflict: `last_login_method`"""
    user = await accounts.me(cp, caller)
    if provider not in await accounts.providers(cp, caller):
        raise NotFound(f"your account is not linked with {provider[:64]}", code="provider_not_found")
    if user.password_hash is None:
        raise Conflict(
            "there would be no way left to log in", code="last_login_method", hint="set a password first"
        )
    await db_identities.delete(cp.db, provider, user.id)


def callback_url(cp: ControlPlane) -> str:
    return f"{cp.config.public_url}/v1/auth/oauth/{PROVIDER}/callback"


def _configured(cp: ControlPlane, provider: str) -> GitHub:
    if provider != PROVIDER or cp.config.github is None:
        raise NotFound(f"there is no log-in with {provider[:64]} here", code="provider_not_found")
    return cp.config.github


async def _identify(github: GitHub, code: str, verifier: str, redirect: str) -> Person:
    """:raises HTTPError: :raises MsgspecError: :raises ValueError:"""
    async with httpx2.AsyncClient(timeout=TIMEOUT_SEC, follow_redirects=False) as http:
        form = {
            "client_id": github.client_id,
            "client_secret": github.client_secret,
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": redirect,
        }
        content = await _ask(http, "POST", f"{github.url}/login/oauth/access_token", data=form)
        token = msgspec.json.decode(content, type=_Token).access_token
        if not token:
            raise ValueError("no access token came for the code")
        headers = {"Authorization": f"Bearer {token}"}
        user = msgspec.json.decode(
            await _ask(http, "GET", f"{github.api_url}/user", headers=headers), type=_User
        )
        emails = msgspec.json.decode(
            await _ask(http, "GET", f"{github.api_url}/user/emails", headers=headers), type=list[_Email]
        )
    verified = sorted((one for one in emails if one.verified), key=lambda one: not one.primary)
    return Person(
        str(user.id), user.login, user.name or user.login, verified[0].email.lower() if verified else None
    )


async def _ask(
    http: httpx2.AsyncClient,
    method: Literal["GET", "POST"],
    url: str,
    *,
    data: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> bytes:
    """:raises HTTPError: :raises ValueError: the answer is too long"""
    content = bytearray()
    given = {"Accept": "application/json", **(headers or {})}
    async with http.stream(method, url, data=data, headers=given) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_bytes():
            content += piece
            if len(content) > _ANSWER_SIZE:
                raise ValueError(f"the answer of {url} is too long")
    return bytes(content)


async def _user(cp: ControlPlane, person: Person) -> UserRow:
    """:raises Refused:"""
    known = await db_identities.user_of(cp.db, PROVIDER, person.subject)
    user = await db_users.get(cp.db, known) if known else None
    if user is not None:
        return user
    if not cp.config.signup:
        raise Refused("signup_closed")
    if person.email is None:
        raise Refused("no_email")
    name = accounts.printable(person.name)
    async with cp.db.transaction() as tx:
        made = await db_users.insert(
            tx, id=new_user_id(), email=person.email, name=name, password_hash=None, is_admin=False
        )
        if made is None:
            raise Refused("email_taken")
        if not await db_identities.insert(
            tx, provider=PROVIDER, subject=person.subject, user_id=made.id, login=person.login
        ):
            raise Refused("invalid_state")  # two callbacks at once: the other one has won
        await teams.found(tx, name=f"{name}'s team", owner=made.id)
    return made


async def _link(cp: ControlPlane, user_id: str, person: Person) -> None:
    """:raises Refused:"""
    linked = await db_identities.insert(
        cp.db, provider=PROVIDER, subject=person.subject, user_id=user_id, login=person.login
    )
    if not linked and await db_identities.user_of(cp.db, PROVIDER, person.subject) != user_id:
        raise Refused("already_linked")
