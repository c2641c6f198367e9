"""Teams: owners of everything. Their members, and those who are asked to become one."""

from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.model.people import Role


class TeamRow(msgspec.Struct, kw_only=True):
    id: str
    name: str
    slug: str
    created_at: datetime


class MembershipRow(msgspec.Struct, kw_only=True):
    """A team as one of its members sees it."""

    id: str
    name: str
    slug: str
    created_at: datetime
    role: Role


class MemberRow(msgspec.Struct, kw_only=True):
    user_id: str
    name: str
    email: str
    role: Role
    joined_at: datetime


class InvitationRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str
    email: str
    role: Role
    invited_by: str | None
    created_at: datetime
    expires_at: datetime


async def insert(db: Executor, *, id: str, name: str, slug: str) -> None:
    await db.execute("INSERT INTO teams (id, name, slug) VALUES ($1, $2, $3)", id, name, slug)


async def get(db: Executor, team_id: str) -> TeamRow | None:
    record = await db.fetchrow("SELECT * FROM teams WHERE id = $1 AND deleted_at IS NULL", team_id)
    return row(record, TeamRow)


async def lock(db: Executor, team_id: str) -> TeamRow | None:
    """Who changes its members holds this, for the rest of the transaction."""
    record = await db.fetchrow("SELECT * FROM teams WHERE id = $1 AND deleted_at IS NULL FOR UPDATE", team_id)
    return row(record, TeamRow)


async def set_name(db: Executor, team_id: str, name: str) -> None:
    await db.execute("UPDATE teams SET name = $2 WHERE id = $1", team_id, name)


async def set_deleted(db: Executor, team_id: str) -> None:
    """The row stays, for what refers to it; nobody gets at it any more."""
    await db.execute("UPDATE teams SET deleted_at = now() WHERE id = $1 AND deleted_at IS NULL", team_id)
    await db.execute("DELETE FROM members WHERE team_id = $1", team_id)
    await db.execute("DELETE FROM invitations WHERE team_id = $1", team_id)
    await db.execute("DELETE FROM api_keys WHERE team_id = $1", team_id)


async def add_member(db: Executor, *, team_id: str, user_id: str, role: Role) -> bool:
    """False: they are one already."""
    done = await db.execute(
        "INSERT INTO members (team_id, user_id, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        team_id,
        user_id,
        role,
    )
    return done != "INSERT 0 0"


async def role_of(db: Executor, team_id: str, user_id: str) -> Role | None:
    return await db.fetchval("SELECT role FROM members WHERE team_id = $1 AND user_id = $2", team_id, user_id)


async def set_role(db: Executor, team_id: str, user_id: str, role: Role) -> None:
    await db.execute(
        "UPDATE members SET role = $3 WHERE team_id = $1 AND user_id = $2", team_id, user_id, role
    )


async def remove_member(db: Executor, team_id: str, user_id: str) -> None:
    await db.execute("DELETE FROM members WHERE team_id = $1 AND user_id = $2", team_id, user_id)


async def remove_everywhere(db: Executor, user_id: str) -> None:
    await db.execute("DELETE FROM members WHERE user_id = $1", user_id)


async def members(db: Executor, team_id: str) -> list[MemberRow]:
    """In the order in which they came."""
    records = await db.fetch(
        """SELECT u.id AS user_id, u.name, u.email, m.role, m.joined_at
             FROM members m JOIN users u ON u.id = m.user_id
            WHERE m.team_id = $1 ORDER BY m.joined_at, u.id""",
        team_id,
    )
    return rows(records, MemberRow)


async def of_user(db: Executor, user_id: str) -> list[MembershipRow]:
    """In the order in which the user joined them."""
    records = await db.fetch(
        """SELECT t.*, m.role FROM members m JOIN teams t ON t.id = m.team_id
            WHERE m.user_id = $1 ORDER BY m.joined_at, t.id""",
        user_id,
    )
    return rows(records, MembershipRow)


async def first_of(db: Executor, user_id: str) -> TeamRow | None:
    """The team that a user works in after logging in."""
    record = await db.fetchrow(
        """SELECT t.* FROM members m JOIN teams t ON t.id = m.team_id
            WHERE m.user_id = $1 ORDER BY m.joined_at, t.id LIMIT 1""",
        user_id,
    )
    return row(record, TeamRow)


async def invite(
    db: Executor,
    *,
    id: str,
    team_id: str,
    email: str,
    role: Role,
    digest: bytes,
    invited_by: str | None,
    lifetime_sec: float,
) -> InvitationRow:
    """A second invitation of the same address takes the place of the first."""
    record = await db.fetchrow(
        """INSERT INTO invitations (id, team_id, email, role, digest, invited_by, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
           ON CONFLICT (team_id, email) DO UPDATE
              SET role = excluded.role, digest = excluded.digest, invited_by = excluded.invited_by,
                  created_at = now(), expires_at = excluded.expires_at
        RETURNING *""",
        id,
        team_id,
        email,
        role,
        digest,
        invited_by,
        lifetime_sec,
    )
    made = row(record, InvitationRow)
    if made is None:
        raise LookupError("INSERT returned nothing")
    return made


async def invitations(db: Executor, team_id: str) -> list[InvitationRow]:
    """Those that can still be accepted, oldest first."""
    records = await db.fetch(
        "SELECT * FROM invitations WHERE team_id = $1 AND expires_at > now() ORDER BY created_at, id", team_id
    )
    return rows(records, InvitationRow)


async def take_invitation(db: Executor, digest: bytes) -> InvitationRow | None:
    """Once."""
    record = await db.fetchrow(
        "DELETE FROM invitations WHERE digest = $1 AND expires_at > now() RETURNING *", digest
    )
    return row(record, InvitationRow)


async def delete_invitation(db: Executor, invitation_id: str, team_id: str) -> bool:
    done = await db.execute("DELETE FROM invitations WHERE id = $1 AND team_id = $2", invitation_id, team_id)
    return done != "DELETE 0"


async def expire_invitations(db: Executor) -> None:
    await db.execute("DELETE FROM invitations WHERE expires_at <= now()")
