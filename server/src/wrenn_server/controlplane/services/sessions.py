"""Log-ins. A session is a row; the token of each request is checked against it, so that a log-out works at once.

```
password ──► session ──► token for an hour + refresh token (programs)
                    └──► cookie (browsers; what changes something needs the CSRF token, too)
refresh token ──► next refresh token; the one before works for another minute, because an answer may be lost, and
                  after that its use ends the session: somebody else has it
```
"""

import secrets
from dataclasses import dataclass, field

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.keys import USER_TOKEN_SEC, UserClaims
from wrenn_server.controlplane.services import attempts, passwords
from wrenn_server.controlplane.services.users import Caller, csrf_token, digest
from wrenn_server.db import sessions as db_sessions
from wrenn_server.db import teams as db_teams
from wrenn_server.db import users as db_users
from wrenn_server.db.sessions import Kind, SessionRow
from wrenn_server.db.users import UserRow
from wrenn_server.model.errors import Forbidden, NotFound, Unauthorized
from wrenn_server.model.ids import new_session_id

LIFETIME_SEC = 30 * 24 * 3600.0
"""Since the last use of the refresh token; of a cookie, since the log-in."""
GRACE_SEC = 60.0
_AGENT_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from."""

    address: str
    user_agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """:ivar token: of a program's session, for `Authorization: Bearer`
    :ivar cookie: of a browser's session
    """

    user: UserRow
    team_id: str
    session_id: str
    token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    cookie: str | None = field(default=None, repr=False)
    csrf: str | None = field(default=None, repr=False)

    @property
    def expires_in_sec(self) -> int:
        return USER_TOKEN_SEC


async def login(cp: ControlPlane, email: str, password: str, client: Client, kind: Kind) -> Login:
    """
    :raises Unauthorized: wrong address or password, and no word about which
    :raises Forbidden: the address is not proven yet, or the user has been disabled: told to who knows the password
    :raises RateLimited:
    """
    email = email.strip().lower()
    await attempts.take(cp, attempts.LOGIN_FROM, client.address)
    await attempts.take(cp, attempts.LOGIN_OF, email)
    user = await db_users.by_email(cp.db, email)
    if not await passwords.right(cp, user.password_hash if user else None, password) or user is None:
        raise Unauthorized("wrong e-mail address or password", code="wrong_credentials")
    await attempts.forget(cp, attempts.LOGIN_OF, email)
    await attempts.give_back(cp, attempts.LOGIN_FROM, client.address)
    return await begin(cp, user, client, kind)


async def begin(cp: ControlPlane, user: UserRow, client: Client, kind: Kind) -> Login:
    """A session for who has proven to be this user.

    :raises Forbidden: not activated, disabled, in no team
    """
    if user.status == "pending":
        raise Forbidden(
            "the e-mail address is not proven yet",
            code="account_not_activated",
            hint="open the link in the mail; sign up again for a new one",
        )
    if user.status != "active":
        raise Forbidden("this account is disabled", code="account_disabled")
    team = await db_teams.first_of(cp.db, user.id)
    if team is None:
        raise Forbidden("this user is in no team", code="no_team")
    secret = secrets.token_urlsafe(32)
    session_id = new_session_id()
    await db_sessions.insert(
        cp.db,
        id=session_id,
        user_id=user.id,
        team_id=team.id,
        kind=kind,
        digest=digest(secret),
        address=client.address,
        user_agent=client.user_agent[:_AGENT_LENGTH],
        lifetime_sec=LIFETIME_SEC,
    )
    if kind == "cookie":
        return Login(
            user=user, team_id=team.id, session_id=session_id, cookie=secret, csrf=csrf_token(secret)
        )
    return _with_token(cp, user, team.id, session_id, secret)


async def refresh(cp: ControlPlane, token: str, client: Client) -> Login:
    """:raises Unauthorized: :raises Forbidden: disabled, in no team :raises RateLimited:"""
    await attempts.take(cp, attempts.SECRET_FROM, client.address)
    old, secret = digest(token), secrets.token_urlsafe(32)
    row = await db_sessions.rotate(
        cp.db, old=old, new=digest(secret), lifetime_sec=LIFETIME_SEC, grace_sec=GRACE_SEC
    )
    if row is None:
        if await db_sessions.delete_reused(cp.db, old):
            raise Unauthorized(
                "this refresh token was used before: the session has ended",
                code="session_ended",
                hint="log in again",
            )
        raise Unauthorized("this refresh token is not valid", hint="log in again")
    await attempts.give_back(cp, attempts.SECRET_FROM, client.address)
    user = await db_users.get(cp.db, row.user_id)
    if user is None or user.status != "active":
        raise Forbidden("this account is disabled", code="account_disabled")
    team_id = row.team_id
    if team_id is None or await db_teams.role_of(cp.db, team_id, user.id) is None:
        team = await db_teams.first_of(cp.db, user.id)
        if team is None:
            raise Forbidden("this user is in no team", code="no_team")
        team_id = team.id
        await db_sessions.set_team(cp.db, row.id, team_id)
    return _with_token(cp, user, team_id, row.id, secret)


async def switch_team(cp: ControlPlane, caller: Caller, team_id: str) -> Login:
    """The same session works in another team of the user.

    :raises Forbidden: not a member, or no such team
    """
    user, session_id = await _own(cp, caller)
    if await db_teams.role_of(cp.db, team_id, user.id) is None:
        raise Forbidden(f"you are no member of team {team_id[:64]}", code="not_a_member")
    await db_sessions.set_team(cp.db, session_id, team_id)
    return _with_token(cp, user, team_id, session_id, None)


async def logout(cp: ControlPlane, caller: Caller) -> None:
    """The caller's own session ends."""
    user, session_id = await _own(cp, caller)
    await db_sessions.delete(cp.db, session_id, user.id)


async def of_user(cp: ControlPlane, caller: Caller) -> list[SessionRow]:
    return await db_sessions.of_user(cp.db, _user_id(caller))


async def revoke(cp: ControlPlane, caller: Caller, session_id: str) -> None:
    """:raises NotFound:"""
    if not await db_sessions.delete(cp.db, session_id, _user_id(caller)):
        raise NotFound(f"session {session_id[:64]} does not exist")


async def revoke_others(cp: ControlPlane, caller: Caller) -> None:
    await db_sessions.delete_of_user(cp.db, _user_id(caller), but=caller.session_id)


async def _own(cp: ControlPlane, caller: Caller) -> tuple[UserRow, str]:
    user = await db_users.get(cp.db, _user_id(caller))
    if user is None or caller.session_id is None:
        raise Unauthorized("this token belongs to no session", hint="log in")
    return user, caller.session_id


def _user_id(caller: Caller) -> str:
    if caller.user_id is None:
        raise Unauthorized("this needs a login")
    return caller.user_id


def _with_token(
    cp: ControlPlane, user: UserRow, team_id: str, session_id: str, refresh_token: str | None
) -> Login:
    token = cp.keys.user_token(UserClaims(user.id, team_id, session_id))
    return Login(user=user, team_id=team_id, session_id=session_id, token=token, refresh_token=refresh_token)
