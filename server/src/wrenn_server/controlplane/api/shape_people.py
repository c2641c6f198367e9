"""Rows about people as the API's structs. Pure."""

from msgspec import UNSET, UnsetType

from wrenn_server.controlplane import schema_people as schema
from wrenn_server.controlplane.services.sessions import Login
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db.api_keys import ApiKeyRow
from wrenn_server.db.sessions import SessionRow
from wrenn_server.db.teams import InvitationRow, MemberRow, MembershipRow
from wrenn_server.db.users import AccountRow, UserRow


def logged_in(login: Login) -> schema.LoggedIn:
    return schema.LoggedIn(
        user_id=login.user.id,
        team_id=login.team_id,
        email=login.user.email,
        name=login.user.name,
        session_id=login.session_id,
        token=login.token or UNSET,
        refresh_token=login.refresh_token or UNSET,
        expires_in_sec=login.expires_in_sec if login.token else UNSET,
        csrf_token=login.csrf or UNSET,
    )


def session(row: SessionRow, caller: Caller) -> schema.Session:
    return schema.Session(
        id=row.id,
        kind=row.kind,
        current=row.id == caller.session_id,
        address=row.address,
        user_agent=row.user_agent,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
    )


def me(user: UserRow, caller: Caller, providers: list[str]) -> schema.Me:
    return schema.Me(
        id=user.id,
        email=user.email,
        name=user.name,
        is_admin=user.is_admin,
        team_id=caller.team_id,
        role=caller.role,
        has_password=user.password_hash is not None,
        providers=providers,
        created_at=user.created_at,
    )


def team(row: MembershipRow) -> schema.Team:
    return schema.Team(id=row.id, name=row.name, slug=row.slug, role=row.role, created_at=row.created_at)


def member(row: MemberRow) -> schema.Member:
    return schema.Member(
        user_id=row.user_id, name=row.name, email=row.email, role=row.role, joined_at=row.joined_at
    )


def invitation(row: InvitationRow) -> schema.Invitation:
    return schema.Invitation(
        id=row.id,
        team_id=row.team_id,
        email=row.email,
        role=row.role,
        invited_by=row.invited_by or UNSET,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def api_key(row: ApiKeyRow, key: str | UnsetType = UNSET) -> schema.ApiKey:
    return schema.ApiKey(
        id=row.id,
        team_id=row.team_id,
        name=row.name,
        key_prefix=row.key_prefix,
        scopes=row.scopes,
        sandbox_id=row.sandbox_id or UNSET,
        created_by=row.created_by or UNSET,
        created_at=row.created_at,
        last_used_at=row.last_used_at or UNSET,
        expires_at=row.expires_at or UNSET,
        key=key,
    )


def account(row: AccountRow) -> schema.Account:
    return schema.Account(
        id=row.id,
        email=row.email,
        name=row.name,
        is_admin=row.is_admin,
        status=row.status,
        teams_joined=row.teams_joined,
        teams_owned=row.teams_owned,
        created_at=row.created_at,
    )
