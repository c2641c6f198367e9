"""Who asks, for which team, and what they may do: read from the database for every request."""

import hashlib
import hmac
import re
from dataclasses import dataclass

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import api_keys as db_api_keys
from wrenn_server.db import sessions as db_sessions
from wrenn_server.db import users as db_users
from wrenn_server.model.errors import Forbidden, Unauthorized
from wrenn_server.model.people import Role, Scope

_KEY = re.compile(r"(?:wrn|e2b)_([0-9a-f]{40})", re.ASCII)
_MEMBER: frozenset[Scope] = frozenset(("read", "write"))
_EVERYTHING: frozenset[Scope] = frozenset(("read", "write", "admin"))
_CSRF = b"wrenn csrf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a request, as the database says now.

    :ivar user_id: None: an API key, which is the team's
    :ivar scopes: `read` looks, `write` changes sandboxes and what belongs to them, `admin` changes the team
    :ivar sandbox_id: a key that reaches this sandbox alone
    """

    team_id: str
    user_id: str | None = None
    role: Role = "member"
    is_admin: bool = False
    scopes: frozenset[Scope] = _MEMBER
    key_id: str | None = None
    session_id: str | None = None
    sandbox_id: str | None = None

    @property
    def actor(self) -> str:
        """As rows and events have it."""
        return f"user {self.user_id}" if self.user_id is not None else f"api_key {self.key_id}"

    def demand(self, scope: Scope) -> None:
        """:raises Forbidden:"""
        if scope in self.scopes:
            return
        if self.key_id is None:
            raise Forbidden("only owners and administrators of the team may do this", code="role_required")
        held = ", ".join(sorted(self.scopes))
        raise Forbidden(
            f"this needs an API key with the scope `{scope}`; this one has {held}", code="scope_required"
        )


async def by_api_key(cp: ControlPlane, key: str) -> Caller:
    """:raises Unauthorized:"""
    digest = key_digest(key)
    row = await db_api_keys.by_digest(cp.db, digest) if digest else None
    if row is None:
        raise Unauthorized("this API key is not valid", code="invalid_api_key")
    cp.seen.key(row.id)
    return Caller(team_id=row.team_id, scopes=frozenset(row.scopes), key_id=row.id, sandbox_id=row.sandbox_id)


async def by_token(cp: ControlPlane, token: str) -> Caller:
    """:raises Unauthorized: also when the user has been disabled, has left the team or has logged out since"""
    claims = cp.keys.read_user_token(token)
    return await _member(cp, claims.user_id, claims.team_id, claims.session_id)


async def by_cookie(cp: ControlPlane, secret: str, csrf: str | None) -> Caller:
    """A browser's session.

    :param csrf: what the page has read and sent back; None: the request changes nothing
    :raises Unauthorized: :raises Forbidden: the request may come from another site's page
    """
    row = await db_sessions.by_digest(cp.db, "cookie", digest(secret))
    if row is None or row.team_id is None:
        raise Unauthorized("the session has ended", hint="log in again")
    if csrf is not None and not hmac.compare_digest(csrf.encode(), csrf_token(secret).encode()):
        raise Forbidden(
            "the request may come from another site's page",
            code="csrf",
            hint="send the cookie `wrenn_csrf` back in the header `X-CSRF-Token`",
        )
    return await _member(cp, row.user_id, row.team_id, row.id)


async def still(cp: ControlPlane, caller: Caller) -> Caller:
    """A user who was let in, as the database says now. The token may have run out since, the session must not.

    :raises Unauthorized:
    """
    if caller.user_id is None:
        raise ValueError("an API key is looked up by itself")
    return await _member(cp, caller.user_id, caller.team_id, caller.session_id)


async def _member(cp: ControlPlane, user_id: str, team_id: str, session_id: str | None) -> Caller:
    member, lasting = await db_users.member(cp.db, user_id, team_id, session_id)
    if member is None or member.status != "active":
        raise Unauthorized("this user has no access to the team any more")
    if not lasting:
        raise Unauthorized("the session has ended", code="session_ended", hint="log in again")
    if session_id is not None:
        cp.seen.session(session_id)
    return Caller(
        team_id=member.team_id,
        user_id=member.user_id,
        role=member.role,
        is_admin=member.is_admin,
        scopes=_MEMBER if member.role == "member" else _EVERYTHING,
        session_id=session_id,
    )


def key_digest(key: str) -> bytes | None:
    """What is stored of a key: its 40 hex digits, whichever prefix it came with. None: not a key."""
    match = _KEY.fullmatch(key)
    return hashlib.sha256(match[1].encode()).digest() if match else None


def digest(secret: str) -> bytes:
    """What is stored of a secret that was made here."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def csrf_token(secret: str) -> str:
    """Goes with a browser's session; from the session's secret, so that nothing more is to be stored."""
    return hmac.new(secret.encode("utf-8", "surrogatepass"), _CSRF, "sha256").hexdigest()[:40]
