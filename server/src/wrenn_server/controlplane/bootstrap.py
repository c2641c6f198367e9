"""The first administrator, their team and key; hosts made without the API. For `wrenn up` and `wrenn-cp admin`."""

import secrets
from dataclasses import dataclass, field

from wrenn_server.controlplane.services import accounts, api_keys, hosts
from wrenn_server.db import teams as db_teams
from wrenn_server.db import users as db_users
from wrenn_server.db.pool import Database
from wrenn_server.db.user_tokens import Purpose

KEY_NAME = "bootstrap"


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    team_id: str
    user_id: str
    admin_email: str
    admin_password: str | None = field(repr=False)
    """None: the user existed, and no password was given."""
    api_key: str = field(repr=False)


async def bootstrap(db: Database, email: str, password: str | None) -> Bootstrapped:
    """Makes the administrator if there is none of this address, and a new API key in any case: it takes the place of
    the one that the last bootstrap gave, because keys cannot be read back.

    :param password: set when given, also for a user who exists; made up for a new one when None
    :raises InvalidRequest: address or password will not do
    """
    email = email.strip().lower()
    async with db.transaction() as tx:
        user = await db_users.by_email(tx, email)
        team = await db_teams.first_of(tx, user.id) if user else None
        if user is None or team is None:
            password = password or secrets.token_urlsafe(15)
            name = email.partition("@")[0]
            user_id, team_id = await accounts.create(
                tx, email=email, password=password, name=name, is_admin=True
            )
        else:
            user_id, team_id = user.id, team.id
            await db_users.make_admin(tx, user_id)
            if password is not None:
                await accounts.set_password(tx, user_id, password)
        await api_keys.delete_named(tx, team_id, KEY_NAME)
        made = await api_keys.make(tx, team_id=team_id, name=KEY_NAME, created_by=user_id)
    return Bootstrapped(team_id, user_id, email, password, made.key)


async def create_host(db: Database, created_by: str | None = None) -> hosts.Created:
    """A host record with a registration token, as `POST /v1/hosts` makes it."""
    return await hosts.create(db, hosts.Wanted(), created_by)


async def new_host_token(db: Database, host_id: str) -> hosts.Created:
    """As `POST /v1/hosts/{id}/token`. :raises NotFound:"""
    return await hosts.new_token(db, host_id)


async def link(db: Database, public_url: str, email: str, purpose: Purpose) -> str:
    """What a mail to a user would say, for an administrator to pass on: activation, or a new password.

    :raises NotFound: there is nobody of this address that it is for
    """
    return await accounts.link_for(public_url, db, email, purpose)
