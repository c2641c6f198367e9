"""What the native API takes and gives about people, teams and keys; see `schema`."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from wrenn_server.controlplane.schema import Request, Time
from wrenn_server.model.people import Role, Scope, Status

Email = Annotated[str, Meta(min_length=3, max_length=254)]
Password = Annotated[str, Meta(max_length=1024, description="At least 8 characters")]
Secret = Annotated[str, Meta(min_length=1, max_length=256)]
PersonName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,100}$(?!\n)")]
TeamName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,128}$(?!\n)")]
GivenRole = Literal["admin", "member"]
Lifetime = Annotated[
    int, Meta(ge=60, le=10 * 365 * 24 * 3600, description="Seconds; without it, it does not end by itself")
]


# Log-ins


class SignUp(Request):
    email: Email
    password: Password
    name: PersonName


class Told(Struct, kw_only=True):
    message: str


class Token(Request):
    token: Secret


class Login(Request):
    email: Annotated[str, Meta(max_length=254)]
    password: Annotated[str, Meta(max_length=1024)]
    cookie: Annotated[bool, Meta(description="For browsers: a session in an HttpOnly cookie, no tokens")] = (
        False
    )


class Refresh(Request):
    refresh_token: Secret


class SwitchTeam(Request):
    team_id: Annotated[str, Meta(max_length=64)]


class LoggedIn(Struct, kw_only=True):
    """Of a browser's session without the tokens."""

    user_id: str
    team_id: str
    email: str
    name: str
    session_id: str
    token: Annotated[str | UnsetType, Meta(description="For `Authorization: Bearer`")] = UNSET
    refresh_token: Annotated[
        str | UnsetType, Meta(description="For the next token, once; not after a switch of teams: it stays")
    ] = UNSET
    expires_in_sec: Annotated[int | UnsetType, Meta(description="Of the token")] = UNSET
    csrf_token: Annotated[
        str | UnsetType, Meta(description="Goes in `X-CSRF-Token` with whatever changes something")
    ] = UNSET


class Session(Struct, kw_only=True):
    id: str
    kind: Literal["token", "cookie"]
    current: Annotated[bool, Meta(description="The one that asks")]
    address: str
    user_agent: str
    created_at: Time
    last_used_at: Time
    expires_at: Time


class Me(Struct, kw_only=True):
    id: str
    email: str
    name: str
    is_admin: bool
    team_id: Annotated[str, Meta(description="The one that this token works in")]
    role: Role
    has_password: bool
    providers: Annotated[list[str], Meta(description="Other ways to log in, e.g. `github`")]
    created_at: Time


class MeUpdate(Request):
    name: PersonName


class PasswordChange(Request):
    new_password: Password
    current_password: Annotated[
        Annotated[str, Meta(max_length=1024)] | UnsetType, Meta(description="Unless there is none yet")
    ] = UNSET


class PasswordAsk(Request):
    email: Email


class PasswordReset(Request):
    token: Secret
    new_password: Password


class MeDelete(Request):
    confirmation: Annotated[Email, Meta(description="The account's e-mail address")]


# Teams


class TeamCreate(Request):
    name: TeamName


class Team(Struct, kw_only=True):
    id: str
    name: str
    slug: str
    is_byoc: Annotated[bool, Meta(description="It has hosts of its own")] = False
    role: Annotated[Role | UnsetType, Meta(description="Of the caller")] = UNSET
    created_at: Time


class Member(Struct, kw_only=True):
    user_id: str
    name: str
    email: str
    role: Role
    joined_at: Time


class TeamDetails(Struct, kw_only=True):
    team: Team
    members: list[Member]


class MemberAdd(Request):
    email: Email
    role: GivenRole = "member"


class MemberUpdate(Request):
    role: GivenRole


class Transfer(Request):
    user_id: Annotated[str, Meta(max_length=64, description="The member who becomes the owner")]


class Invitation(Struct, kw_only=True):
    id: str
    team_id: str
    email: str
    role: Role
    invited_by: str | UnsetType = UNSET
    created_at: Time
    expires_at: Time


# Keys


class ApiKeyCreate(Request):
    name: Annotated[str, Meta(max_length=128)] = ""
    scopes: Annotated[
        list[Scope],
        Meta(
            min_length=1,
            max_length=3,
            description="`read` looks, `write` changes sandboxes and what belongs to them, `admin` changes the team",
        ),
    ] = field(default_factory=lambda: ["read", "write"])
    expires_in_sec: Lifetime | UnsetType = UNSET


class SandboxKeyCreate(Request):
    name: Annotated[str, Meta(max_length=128)] = ""
    scopes: Annotated[list[Literal["read", "write"]], Meta(min_length=1, max_length=2)] = field(
        default_factory=lambda: ["read", "write"]
    )
    expires_in_sec: Lifetime | UnsetType = UNSET


class ApiKey(Struct, kw_only=True):
    id: str
    team_id: str
    name: str
    key_prefix: str
    scopes: list[Scope]
    sandbox_id: Annotated[
        str | UnsetType, Meta(description="The one that it reaches, if it is one alone")
    ] = UNSET
    created_by: str | UnsetType = UNSET
    created_at: Time
    last_used_at: Time | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    key: Annotated[str | UnsetType, Meta(description="In the answer that makes it, and never again")] = UNSET


# Administration of the platform


class Account(Struct, kw_only=True):
    id: str
    email: str
    name: str
    is_admin: bool
    status: Status
    teams_joined: int
    teams_owned: int
    created_at: Time


class AccountUpdate(Request):
    active: bool | UnsetType = UNSET
    is_admin: bool | UnsetType = UNSET
