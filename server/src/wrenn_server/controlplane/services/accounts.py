"""People: sign-up, activation, passwords, profile, deletion.

Nobody learns from an answer whether an address has an account: what differs is in the mail.
"""

import re
import secrets

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import attempts, mail, passwords, pools, teams
from wrenn_server.controlplane.services.sessions import Client
from wrenn_server.controlplane.services.users import Caller, digest
from wrenn_server.db import identities as db_identities
from wrenn_server.db import sessions as db_sessions
from wrenn_server.db import teams as db_teams
from wrenn_server.db import user_tokens
from wrenn_server.db import users as db_users
from wrenn_server.db.pool import Executor
from wrenn_server.db.user_tokens import Purpose
from wrenn_server.db.users import UserRow
from wrenn_server.model.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthorized
from wrenn_server.model.ids import new_user_id

ACTIVATION_SEC = 24 * 3600.0
RESET_SEC = 15 * 60.0
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_EMAIL_LENGTH = 254


def address(text: str) -> str:
    """An e-mail address in the form in which it is stored. :raises InvalidRequest:"""
    email = text.strip().lower()
    if not _EMAIL.fullmatch(email) or len(email) > _EMAIL_LENGTH or not email.isprintable():
        raise InvalidRequest(f"{email[:100]!r} is not an e-mail address")
    return email


def printable(name: str) -> str:
    """A name from elsewhere, as names are here."""
    return "".join(character for character in name if character.isprintable()).strip()[:100] or "?"


async def create(db: Executor, *, email: str, password: str, name: str, is_admin: bool) -> tuple[str, str]:
    """An active user with a team of their own. Run it in a transaction. Returns ids of user and team.

    :raises Conflict: `email_taken`; :raises InvalidRequest:
    """
    email = address(email)
    user = await db_users.insert(
        db,
        id=new_user_id(),
        email=email,
        name=name,
        password_hash=await passwords.hashed(password),
        is_admin=is_admin,
    )
    if user is None:
        raise Conflict(f"there is a user with the address {email} already", code="email_taken")
    team_id = await teams.found(db, name=f"{name}'s team", owner=user.id)
    return user.id, team_id


async def sign_up(cp: ControlPlane, email: str, password: str, name: str, client: Client) -> None:
    """Sends a link that proves the address. An account that was never activated is signed up anew.

    :raises InvalidRequest: :raises Forbidden: this platform does not take sign-ups; :raises RateLimited:
    """
    if not cp.config.signup:
        raise Forbidden("this platform takes no sign-ups", code="signup_closed", hint="ask its administrator")
    email = address(email)
    await attempts.take(cp, attempts.SIGNUP_FROM, client.address)
    password_hash = await passwords.hashed(password)
    await attempts.take(cp, attempts.MAIL_TO, email)
    async with cp.db.transaction() as tx:
        user = await db_users.insert(
            tx,
            id=new_user_id(),
            email=email,
            name=name,
            password_hash=password_hash,
            is_admin=False,
            status="pending",
        ) or await db_users.by_email(tx, email)
        if user is None:
            return  # it was deleted in between: the next attempt finds the address free
        renewed = await db_users.replace_pending(tx, user.id, name=name, password_hash=password_hash)
        link = await _link(cp, tx, user.id, "activate") if renewed else None
    if link is None:
        mail.send(cp, email, "You have an account already", _TAKEN.format(url=cp.config.public_url))
    else:
        mail.send(cp, email, "Activate your account", _ACTIVATE.format(name=name, link=link))


async def activate(cp: ControlPlane, token: str, client: Client) -> UserRow:
    """The user gets a team of their own.

    :raises InvalidRequest: `invalid_token`: used, expired, replaced or none at all; :raises RateLimited:
    """
    await attempts.take(cp, attempts.SECRET_FROM, client.address)
    async with cp.db.transaction() as tx:
        user = await _taken(tx, "activate", token)
        if user.status == "pending":
            await db_users.set_status(tx, user.id, "active")
            if await db_teams.first_of(tx, user.id) is None:
                await teams.found(tx, name=f"{user.name}'s team", owner=user.id)
        user = await db_users.get(tx, user.id) or user
    await attempts.give_back(cp, attempts.SECRET_FROM, client.address)
    return user


async def ask_for_reset(cp: ControlPlane, email: str, client: Client) -> None:
    """Sends a link to who has an active account, and nobody else anything. :raises RateLimited:"""
    email = address(email)
    await attempts.take(cp, attempts.RESET_FROM, client.address)
    await attempts.take(cp, attempts.MAIL_TO, email)
    user = await db_users.by_email(cp.db, email)
    if user is None or user.status != "active":
        return
    link = await _link(cp, cp.db, user.id, "reset")
    mail.send(cp, email, "Set a new password", _RESET.format(name=user.name, link=link))


async def reset(cp: ControlPlane, token: str, password: str, client: Client) -> None:
    """Ends all sessions of the user.

    :raises InvalidRequest: `invalid_token`, or the password will not do; :raises RateLimited:
    """
    await attempts.take(cp, attempts.SECRET_FROM, client.address)
    password_hash = await passwords.hashed(password)
    async with cp.db.transaction() as tx:
        user = await _taken(tx, "reset", token)
        await db_users.set_password(tx, user.id, password_hash)
        await db_sessions.delete_of_user(tx, user.id)
    await attempts.give_back(cp, attempts.SECRET_FROM, client.address)
    await attempts.forget(cp, attempts.LOGIN_OF, user.email)


async def change_password(cp: ControlPlane, caller: Caller, current: str | None, new: str) -> None:
    """Ends the user's other sessions. Who has no password yet, sets the first.

    :raises Unauthorized: `wrong_password`; :raises InvalidRequest: :raises RateLimited:
    """
    user = await me(cp, caller)
    if user.password_hash is not None:
        await attempts.take(cp, attempts.LOGIN_OF, user.email)
        if not await passwords.right(cp, user.password_hash, current or ""):
            raise Unauthorized("the current password is wrong", code="wrong_password")
        await attempts.forget(cp, attempts.LOGIN_OF, user.email)
    password_hash = await passwords.hashed(new)
    async with cp.db.transaction() as tx:
        await db_users.set_password(tx, user.id, password_hash)
        await db_sessions.delete_of_user(tx, user.id, but=caller.session_id)


async def set_password(db: Executor, user_id: str, password: str) -> None:
    """:raises InvalidRequest:"""
    await db_users.set_password(db, user_id, await passwords.hashed(password))


async def me(cp: ControlPlane, caller: Caller) -> UserRow:
    """:raises Unauthorized: an API key is no person"""
    user = await db_users.get(cp.db, caller.user_id) if caller.user_id else None
    if user is None:
        raise Unauthorized("this needs a login")
    return user


async def providers(cp: ControlPlane, caller: Caller) -> list[str]:
    """Other ways in which the user logs in."""
    return await db_identities.of_user(cp.db, caller.user_id) if caller.user_id else []


async def rename(cp: ControlPlane, caller: Caller, name: str) -> UserRow:
    user = await me(cp, caller)
    return await db_users.set_name(cp.db, user.id, name) or user


async def delete(cp: ControlPlane, caller: Caller, confirmation: str) -> None:
    """Teams of which the user is the only member go with them.

    :raises InvalidRequest: the confirmation is not the user's address
    :raises Conflict: `owns_team_with_members`, `last_admin`
    """
    user = await me(cp, caller)
    if confirmation.strip().lower() != user.email:
        raise InvalidRequest("to confirm, give the e-mail address of the account", code="not_confirmed")
    alone: list[str] = []
    async with cp.db.transaction() as tx:
        locked = await db_users.lock(tx, user.id)
        if locked is None or locked.status == "deleted":
            return
        if locked.is_admin and await db_users.is_last_admin(tx, user.id):
            raise Conflict(
                "this is the platform's last administrator",
                code="last_admin",
                hint="make another one before: `wrenn-cp admin create`",
            )
        for team in await db_teams.of_user(tx, user.id):
            await db_teams.lock(tx, team.id)
            if team.role != "owner":
                continue
            if len(await db_teams.members(tx, team.id)) > 1:
                raise Conflict(
                    f"you own the team {team.name!r}, which has other members",
                    code="owns_team_with_members",
                    hint="give it to one of them, or delete it",
                )
            alone.append(team.id)
        for team_id in alone:
            await db_teams.set_deleted(tx, team_id)
            await pools.close_in(tx, team_id, user.id)
        await db_teams.remove_everywhere(tx, user.id)
        await db_sessions.delete_of_user(tx, user.id)
        await db_users.forget(tx, user.id)
    teams.end_sandboxes(cp)


async def link_for(cp_url: str, db: Executor, email: str, purpose: Purpose) -> str:
    """A link for an administrator to pass on. :raises NotFound:"""
    user = await db_users.by_email(db, email.strip().lower())
    if user is None or (user.status == "pending") != (purpose == "activate"):
        raise NotFound(f"there is no account of {email[:100]} that this is for")
    return await _new_link(cp_url, db, user.id, purpose)


async def _link(cp: ControlPlane, db: Executor, user_id: str, purpose: Purpose) -> str:
    return await _new_link(cp.config.public_url, db, user_id, purpose)


async def _new_link(url: str, db: Executor, user_id: str, purpose: Purpose) -> str:
    secret = secrets.token_urlsafe(24)
    lifetime = ACTIVATION_SEC if purpose == "activate" else RESET_SEC
    await user_tokens.put(db, user_id=user_id, purpose=purpose, digest=digest(secret), lifetime_sec=lifetime)
    # In the fragment, which browsers send to nobody: neither logs nor Referer headers have it.
    return f"{url}/{purpose}#token={secret}"


async def _taken(db: Executor, purpose: Purpose, token: str) -> UserRow:
    user_id = await user_tokens.take(db, purpose, digest(token))
    user = await db_users.lock(db, user_id) if user_id else None
    if user is None or user.status not in ("pending", "active"):
        raise InvalidRequest(
            "this link is not valid: it was used before, is too old, or another was sent since",
            code="invalid_token",
        )
    return user


_ACTIVATE = """Hello {name},

this link activates your account. It works once, within a day:

{link}

If you have not signed up, ignore this mail: nothing happens.
"""
_TAKEN = """Hello,

somebody, perhaps you, wanted to sign up with this address at {url}. There is an account of it already: log in, or have
a new password sent to you.
"""
_RESET = """Hello {name},

this link lets you set a new password. It works once, within a quarter of an hour:

{link}

If you have not asked for it, ignore this mail: your password stays.
"""
