"""`/v1/teams`, `/v1/invitations`."""

from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from wrenn_server.controlplane import schema_people as schema
from wrenn_server.controlplane.api import auth, shape_people
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import accounts, teams
from wrenn_server.model.people import Role

_TEAM = "/v1/teams/{team_id:str}"
_MEMBER = _TEAM + "/members/{user_id:str}"


@get("/v1/teams", operation_id="listTeams", tags=["teams"])
async def listing(cp: Cp, caller: Who) -> list[schema.Team]:
    """Your teams, in the order in which you joined them."""
    return [shape_people.team(row) for row in await teams.of_caller(cp, caller)]


@post("/v1/teams", operation_id="createTeam", tags=["teams"])
async def create(cp: Cp, caller: Who, data: JSONBody[schema.TeamCreate]) -> schema.Team:
    """Found a team, as its owner."""
    return shape_people.team(await teams.create(cp, caller, data.name))


@get(_TEAM, operation_id="getTeam", tags=["teams"])
async def get_one(cp: Cp, caller: Who, team_id: FromPath[str]) -> schema.TeamDetails:
    """One of your teams, with its members."""
    team, members = await teams.get(cp, caller, team_id)
    role: Role | None = next((row.role for row in members if row.user_id == caller.user_id), None)
    return schema.TeamDetails(
        team=schema.Team(
            id=team.id,
            name=team.name,
            slug=team.slug,
            role=UNSET if role is None else role,
            created_at=team.created_at,
        ),
        members=[shape_people.member(row) for row in members],
    )


@patch(
    _TEAM, operation_id="renameTeam", tags=["teams"], status_code=204, opt=auth.needs("admin", beyond=True)
)
async def rename(cp: Cp, caller: Who, team_id: FromPath[str], data: JSONBody[schema.TeamCreate]) -> None:
    """Give a team another name. For owners and administrators."""
    await teams.rename(cp, caller, team_id, data.name)


@delete(_TEAM, operation_id="deleteTeam", tags=["teams"])
async def delete_one(cp: Cp, caller: Who, team_id: FromPath[str]) -> None:
    """Delete a team: its keys stop working at once, its sandboxes are killed. For its owner."""
    await teams.delete(cp, caller, team_id)


@get(_TEAM + "/members", operation_id="listMembers", tags=["teams"])
async def list_members(cp: Cp, caller: Who, team_id: FromPath[str]) -> list[schema.Member]:
    """Who is in the team, in the order in which they came."""
    _, members = await teams.get(cp, caller, team_id)
    return [shape_people.member(row) for row in members]


@post(_TEAM + "/members", operation_id="inviteMember", tags=["teams"], opt=auth.needs("admin", beyond=True))
async def invite(
    cp: Cp, caller: Who, team_id: FromPath[str], data: JSONBody[schema.MemberAdd]
) -> schema.Invitation:
    """Invite somebody by e-mail, with an account or without; a week is time to accept. For owners and administrators."""
    email = accounts.address(data.email)
    return shape_people.invitation(await teams.add_member(cp, caller, team_id, email, data.role))


@patch(_MEMBER, operation_id="setRole", tags=["teams"], status_code=204, opt=auth.needs("admin", beyond=True))
async def set_role(
    cp: Cp, caller: Who, team_id: FromPath[str], user_id: FromPath[str], data: JSONBody[schema.MemberUpdate]
) -> None:
    """Change a member's role, at once. For owners and administrators."""
    await teams.set_role(cp, caller, team_id, user_id, data.role)


@delete(_MEMBER, operation_id="removeMember", tags=["teams"], opt=auth.needs("admin", beyond=True))
async def remove(cp: Cp, caller: Who, team_id: FromPath[str], user_id: FromPath[str]) -> None:
    """Remove a member, at once. For owners and administrators."""
    await teams.remove_member(cp, caller, team_id, user_id)


@post(_TEAM + "/leave", operation_id="leaveTeam", tags=["teams"], status_code=204)
async def leave(cp: Cp, caller: Who, team_id: FromPath[str]) -> None:
    """Leave a team. Its owner cannot."""
    await teams.leave(cp, caller, team_id)


@post(_TEAM + "/transfer", operation_id="transferTeam", tags=["teams"], status_code=204)
async def transfer(cp: Cp, caller: Who, team_id: FromPath[str], data: JSONBody[schema.Transfer]) -> None:
    """Make another member the owner; you become an administrator. For the owner."""
    await teams.transfer(cp, caller, team_id, data.user_id)


@get(
    _TEAM + "/invitations",
    operation_id="listInvitations",
    tags=["teams"],
    opt=auth.needs("admin", beyond=True),
)
async def list_invitations(cp: Cp, caller: Who, team_id: FromPath[str]) -> list[schema.Invitation]:
    """Invitations that nobody has accepted yet. For owners and administrators."""
    return [shape_people.invitation(row) for row in await teams.invitations(cp, caller, team_id)]


@delete(
    _TEAM + "/invitations/{invitation_id:str}",
    operation_id="withdrawInvitation",
    tags=["teams"],
    opt=auth.needs("admin", beyond=True),
)
async def withdraw(cp: Cp, caller: Who, team_id: FromPath[str], invitation_id: FromPath[str]) -> None:
    """Take an invitation back. For owners and administrators."""
    await teams.withdraw(cp, caller, team_id, invitation_id)


@post("/v1/invitations/accept", operation_id="acceptInvitation", tags=["teams"], status_code=200)
async def accept(cp: Cp, caller: Who, data: JSONBody[schema.Token]) -> schema.Team:
    """Join the team that you were invited to, with the token of the mailed link."""
    return shape_people.team(await teams.accept(cp, caller, data.token))


USER_ROUTES = [listing, create, leave, transfer, accept]
CALLER_ROUTES = [
    delete_one,
    get_one,
    rename,
    list_members,
    invite,
    set_role,
    remove,
    list_invitations,
    withdraw,
]
"""Keys of the team may do these, too: what changes something with the scope `admin`."""
