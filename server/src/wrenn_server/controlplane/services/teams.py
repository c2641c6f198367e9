"""Teams: who is in them, in which role, and who is asked to join. Changes of one team wait for each other.

The owner may everything; administrators manage members, keys and whatever else belongs to the team; members work with
sandboxes. A team has one owner, who can give it to another member.
"""

import contextlib
import secrets
from typing import Literal

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import mail, pools, sandboxes
from wrenn_server.controlplane.services.users import Caller, digest
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import teams as db_teams
from wrenn_server.db import users as db_users
from wrenn_server.db.pool import Executor
from wrenn_server.db.teams import InvitationRow, MemberRow, MembershipRow, TeamRow
from wrenn_server.model.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unauthorized,
    WrennError,
)
from wrenn_server.model.ids import new_invitation_id, new_team_id
from wrenn_server.model.people import Role

INVITATION_SEC = 7 * 24 * 3600.0
Given = Literal["admin", "member"]


async def found(db: Executor, *, name: str, owner: str) -> str:
    """Run it in a transaction. Returns the new team's id."""
    team_id = new_team_id()
    await db_teams.insert(
        db, id=team_id, name=name[:128], slug=f"{secrets.token_hex(3)}-{secrets.token_hex(3)}"
    )
    await db_teams.add_member(db, team_id=team_id, user_id=owner, role="owner")
    return team_id


async def create(cp: ControlPlane, caller: Caller, name: str) -> MembershipRow:
    """:raises Unauthorized: by an API key"""
    user_id = _person(caller)
    async with cp.db.transaction() as tx:
        team_id = await found(tx, name=name, owner=user_id)
        return _membership(await db_teams.of_user(tx, user_id), team_id)


async def of_caller(cp: ControlPlane, caller: Caller) -> list[MembershipRow]:
    return await db_teams.of_user(cp.db, _person(caller))


async def get(cp: ControlPlane, caller: Caller, team_id: str) -> tuple[TeamRow, list[MemberRow]]:
    """:raises NotFound: also for teams that the caller is not in"""
    await _role(cp.db, caller, team_id)
    team = await db_teams.get(cp.db, team_id)
    if team is None:
        raise _no_team(team_id)
    return team, await db_teams.members(cp.db, team_id)


async def rename(cp: ControlPlane, caller: Caller, team_id: str, name: str) -> None:
    """:raises NotFound: :raises Forbidden:"""
    await _administer(cp.db, caller, team_id)
    await db_teams.set_name(cp.db, team_id, name)


async def delete(cp: ControlPlane, caller: Caller, team_id: str) -> None:
    """Its keys stop working at once; its sandboxes are killed.

    :raises NotFound: :raises Forbidden: not the owner; :raises Conflict: the owner would be in no team
    """
    async with cp.db.transaction() as tx:
        await _locked(tx, team_id)
        if await _role(tx, caller, team_id) != "owner":
            raise Forbidden("only the owner deletes a team", code="role_required")
        if len(await db_teams.of_user(tx, _person(caller))) == 1:
            raise Conflict("this is your only team", code="last_team", hint="make or join another one before")
        await db_teams.set_deleted(tx, team_id)
        await pools.close_in(tx, team_id, caller.user_id)
    end_sandboxes(cp)


def end_sandboxes(cp: ControlPlane) -> None:
    """Of teams that are gone, in the background; the reconciler does it when this program dies before."""
    cp.work.later(converge(cp), "end the sandboxes of deleted teams")


async def converge(cp: ControlPlane) -> None:
    for row in await db_sandboxes.of_deleted_teams(cp.db):
        with contextlib.suppress(WrennError):  # the next round tries again
            await sandboxes.kill(cp, row.team_id, row.id)
    await db_hosts.delete_of_deleted_teams(cp.db)


async def add_member(
    cp: ControlPlane, caller: Caller, team_id: str, email: str, role: Given
) -> InvitationRow:
    """Invites whoever has this address, with an account or without; nobody is made a member without agreeing.

    :raises NotFound: :raises Forbidden: :raises Conflict: `already_member`
    """
    await _administer(cp.db, caller, team_id)
    secret = secrets.token_urlsafe(24)
    async with cp.db.transaction() as tx:
        team = await _locked(tx, team_id)
        if email in {member.email for member in await db_teams.members(tx, team_id)}:
            raise Conflict(f"{email} is a member already", code="already_member")
        row = await db_teams.invite(
            tx,
            id=new_invitation_id(),
            team_id=team_id,
            email=email,
            role=role,
            digest=digest(secret),
            invited_by=caller.user_id,
            lifetime_sec=INVITATION_SEC,
        )
    link = f"{cp.config.public_url}/invitation#token={secret}"
    mail.send(cp, email, f"Join the team {_line(team.name)}", _INVITATION.format(team=team.name, link=link))
    return row


async def invitations(cp: ControlPlane, caller: Caller, team_id: str) -> list[InvitationRow]:
    await _administer(cp.db, caller, team_id)
    return await db_teams.invitations(cp.db, team_id)


async def withdraw(cp: ControlPlane, caller: Caller, team_id: str, invitation_id: str) -> None:
    """:raises NotFound: :raises Forbidden:"""
    await _administer(cp.db, caller, team_id)
    if not await db_teams.delete_invitation(cp.db, invitation_id, team_id):
        raise NotFound(f"invitation {invitation_id[:64]} does not exist")


async def accept(cp: ControlPlane, caller: Caller, token: str) -> MembershipRow:
    """:raises InvalidRequest: `invalid_token`; :raises Forbidden: it was sent to another address"""
    user_id = _person(caller)
    async with cp.db.transaction() as tx:
        row = await db_teams.take_invitation(tx, digest(token))
        if row is None or await db_teams.lock(tx, row.team_id) is None:
            raise InvalidRequest(
                "this invitation is not valid: it was used before, withdrawn, or is too old",
                code="invalid_token",
            )
        user = await db_users.get(tx, user_id)
        if user is None or user.email != row.email:
            raise Forbidden("the invitation was sent to another address", code="other_address")
        await db_teams.add_member(tx, team_id=row.team_id, user_id=user_id, role=row.role)
        return _membership(await db_teams.of_user(tx, user_id), row.team_id)


async def set_role(cp: ControlPlane, caller: Caller, team_id: str, user_id: str, role: Given) -> None:
    """:raises NotFound: :raises Forbidden: the owner's role changes only with the team's owner"""
    await _administer(cp.db, caller, team_id)
    async with cp.db.transaction() as tx:
        await _locked(tx, team_id)
        if await _member_role(tx, team_id, user_id) == "owner":
            raise Forbidden("the owner's role stays until the team is given to another", code="is_owner")
        await db_teams.set_role(tx, team_id, user_id, role)


async def remove_member(cp: ControlPlane, caller: Caller, team_id: str, user_id: str) -> None:
    """:raises NotFound: :raises Forbidden:"""
    await _administer(cp.db, caller, team_id)
    await _remove(cp, team_id, user_id)


async def leave(cp: ControlPlane, caller: Caller, team_id: str) -> None:
    """:raises NotFound: :raises Forbidden: the owner stays"""
    await _role(cp.db, caller, team_id)
    await _remove(cp, team_id, _person(caller))


async def transfer(cp: ControlPlane, caller: Caller, team_id: str, user_id: str) -> None:
    """The owner becomes an administrator, the other member the owner. :raises NotFound: :raises Forbidden:"""
    own = _person(caller)
    async with cp.db.transaction() as tx:
        await _locked(tx, team_id)
        if await _role(tx, caller, team_id) != "owner":
            raise Forbidden("only the owner gives a team away", code="role_required")
        await _member_role(tx, team_id, user_id)
        await db_teams.set_role(tx, team_id, own, "admin")
        await db_teams.set_role(tx, team_id, user_id, "owner")


async def _remove(cp: ControlPlane, team_id: str, user_id: str) -> None:
    async with cp.db.transaction() as tx:
        await _locked(tx, team_id)
        if await _member_role(tx, team_id, user_id) == "owner":
            raise Forbidden(
                "the owner cannot leave the team",
                code="is_owner",
                hint="give it to another member, or delete it",
            )
        await db_teams.remove_member(tx, team_id, user_id)


async def _role(db: Executor, caller: Caller, team_id: str) -> Role:
    """Of the caller in a team, whichever they work in now; a key is what it may do in its own.

    :raises NotFound: not in it
    """
    role = None
    if caller.user_id is not None:
        role = await db_teams.role_of(db, team_id, caller.user_id)
    elif caller.team_id == team_id:
        role = "admin" if "admin" in caller.scopes else "member"
    if role is None:
        raise _no_team(team_id)
    return role


async def _administer(db: Executor, caller: Caller, team_id: str) -> None:
    if await _role(db, caller, team_id) == "member":
        raise Forbidden("only owners and administrators of the team may do this", code="role_required")


async def _locked(tx: Executor, team_id: str) -> TeamRow:
    team = await db_teams.lock(tx, team_id)
    if team is None:
        raise _no_team(team_id)
    return team


async def _member_role(tx: Executor, team_id: str, user_id: str) -> Role:
    role = await db_teams.role_of(tx, team_id, user_id)
    if role is None:
        raise NotFound(f"user {user_id[:64]} is not in this team")
    return role


def _person(caller: Caller) -> str:
    if caller.user_id is None:
        raise Unauthorized("this needs a login")
    return caller.user_id


def _membership(found: list[MembershipRow], team_id: str) -> MembershipRow:
    return next(row for row in found if row.id == team_id)


def _no_team(team_id: str) -> NotFound:
    return NotFound(f"team {team_id[:64]} does not exist")


def _line(text: str) -> str:
    """For a mail's subject: names may contain what ends a line."""
    return "".join(character if character.isprintable() else " " for character in text)


_INVITATION = """Hello,

you are invited to the team {team}. Log in or sign up with this address, and open the link within a week:

{link}
"""
