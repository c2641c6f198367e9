"""Users, logins and API keys: who asks, and for which team."""

import asyncio
import hashlib
import re
import secrets
from dataclasses import dataclass, field

import argon2

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.keys import UserClaims
from wrenn_server.db import api_keys as db_api_keys
from wrenn_server.db import teams as db_teams
from wrenn_server.db import users as db_users
from wrenn_server.db.api_keys import ApiKeyRow
from wrenn_server.db.pool import Executor
from wrenn_server.model.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthorized
from wrenn_server.model.ids import new_key_id, new_team_id, new_user_id

PASSWORD_MIN = 8
_KEY = re.compile(r"(?:wrn|e2b)_([0-9a-f]{40})", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")

_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""OWASP's minimum for Argon2id: 19 MiB, two rounds."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, as the database says now."""

    team_id: str
    user_id: str | None
    """None: an API key, which is the team's."""
    role: str
    is_admin: bool
    key_id: str | None = None

    @property
    def actor(self) -> str:
        """As rows and events have it."""
        return f"user {self.user_id}" if self.user_id is not None else f"api_key {self.key_id}"


@dataclass(frozen=True, slots=True)
class Login:
    token: str = field(repr=False)
    user_id: str
    team_id: str
    email: str
    name: str


@dataclass(frozen=True, slots=True)
class NewKey:
    row: ApiKeyRow
    key: str = field(repr=False)


async def by_api_key(cp: ControlPlane, key: str) -> Caller:
    """:raises Unauthorized:"""
    digest = key_digest(key)
    row = await db_api_keys.by_digest(cp.db, digest) if digest else None
    if row is None:
        raise Unauthorized("this API key is not valid", code="invalid_api_key")
    cp.seen.key(row.id)
    return Caller(row.team_id, None, "member", False, row.id)


async def by_token(cp: ControlPlane, token: str) -> Caller:
    """:raises Unauthorized: also when the user has been disabled or has left the team since"""
    claims = cp.keys.read_user_token(token)
    member = await db_users.member(cp.db, claims.user_id, claims.team_id)
    if member is None or member.status != "active":
        raise Unauthorized("this user has no access to the team any more")
    return Caller(member.team_id, member.user_id, member.role, member.is_admin)


async def login(cp: ControlPlane, email: str, password: str) -> Login:
    """:raises Unauthorized: wrong address or password, and no word about which; :raises Forbidden: no team"""
    user = await db_users.by_email(cp.db, email.strip().lower())
    # A hash is computed for unknown addresses too: the time of an answer must not tell who has an account.
    async with cp.hashing:
        right = await asyncio.to_thread(_verify, user.password_hash if user else None, password)
    if user is None or not right or user.status != "active":
        raise Unauthorized("wrong e-mail address or password", code="wrong_credentials")
    team = await db_teams.first_of(cp.db, user.id)
    if team is None:
        raise Forbidden("this user is in no team", code="no_team")
    token = cp.keys.user_token(UserClaims(user.id, team.id))
    return Login(token, user.id, team.id, user.email, user.name)


async def create(db: Executor, *, email: str, password: str, name: str, is_admin: bool) -> tuple[str, str]:
    """A user with a team of their own. Run it in a transaction. Returns ids of user and team.

    :raises Conflict: `email_taken`; :raises InvalidRequest:
    """
    email = email.strip().lower()
    if not _EMAIL.fullmatch(email) or len(email) > 254 or "\0" in email:
        raise InvalidRequest(f"{email[:100]!r} is not an e-mail address")
    user = await db_users.insert(
        db,
        id=new_user_id(),
        email=email,
        name=name,
        password_hash=await hash_password(password),
        is_admin=is_admin,
    )
    if user is None:
        raise Conflict(f"there is a user with the address {email} already", code="email_taken")
    team_id = new_team_id()
    await db_teams.insert(db, id=team_id, name=f"{name}'s team")
    await db_teams.add_member(db, team_id=team_id, user_id=user.id, role="owner")
    return user.id, team_id


async def new_key(db: Executor, *, team_id: str, name: str, created_by: str | None) -> NewKey:
    key = "wrn_" + secrets.token_hex(20)
    digest = key_digest(key)
    if digest is None:
        raise AssertionError("a key of ours has our form")
    row = await db_api_keys.insert(
        db,
        id=new_key_id(),
        team_id=team_id,
        name=name.strip() or "Unnamed API key",
        digest=digest,
        key_prefix=key[:10],
        created_by=created_by,
    )
    return NewKey(row, key)


async def delete_key(cp: ControlPlane, caller: Caller, key_id: str) -> None:
    """:raises NotFound:"""
    if not re.fullmatch(r"key_[a-z0-9]{20}", key_id) or not await db_api_keys.delete(
        cp.db, key_id, caller.team_id
    ):
        raise NotFound(f"API key {key_id[:64]} does not exist")


def key_digest(key: str) -> bytes | None:
    """What is stored of a key: its 40 hex digits, whichever prefix it came with. None: not a key."""
    match = _KEY.fullmatch(key)
    return hashlib.sha256(match[1].encode()).digest() if match else None


async def set_password(db: Executor, user_id: str, password: str) -> None:
    """:raises InvalidRequest:"""
    await db_users.set_password(db, user_id, await hash_password(password))


async def delete_keys_named(db: Executor, team_id: str, name: str) -> None:
    await db_api_keys.delete_named(db, team_id, name)


async def hash_password(password: str) -> str:
    """:raises InvalidRequest: too short"""
    if len(password) < PASSWORD_MIN:
        raise InvalidRequest(f"a password has at least {PASSWORD_MIN} characters")
    return await asyncio.to_thread(_hasher.hash, password.encode("utf-8", "surrogatepass"))


def _verify(password_hash: str | None, password: str) -> bool:
    if password_hash is None:
        _hasher.hash(password.encode("utf-8", "surrogatepass"))  # takes as long as the comparison would
        return False
    try:
        return _hasher.verify(password_hash, password.encode("utf-8", "surrogatepass"))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
