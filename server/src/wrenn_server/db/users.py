"""Users and their membership of teams."""

from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, row


class UserRow(msgspec.Struct, kw_only=True):
    id: str
    email: str
    name: str
    password_hash: str | None
    is_admin: bool
    status: str
    created_at: datetime


class MemberRow(msgspec.Struct, kw_only=True):
    """A user as the member of one team: what a request may do is decided by this, read anew each time."""

    user_id: str
    team_id: str
    role: str
    is_admin: bool
    status: str


async def insert(
    db: Executor, *, id: str, email: str, name: str, password_hash: str | None, is_admin: bool
) -> UserRow | None:
    """None when the address is taken.

    :param email: lower case
    """
    record = await db.fetchrow(
        """INSERT INTO users (id, email, name, password_hash, is_admin) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (email) DO NOTHING RETURNING *""",
        id,
        email,
        name,
        password_hash,
        is_admin,
    )
    return row(record, UserRow)


async def by_email(db: Executor, email: str) -> UserRow | None:
    return row(await db.fetchrow("SELECT * FROM users WHERE email = $1", email), UserRow)


async def set_password(db: Executor, user_id: str, password_hash: str) -> None:
    await db.execute("UPDATE users SET password_hash = $2 WHERE id = $1", user_id, password_hash)


async def make_admin(db: Executor, user_id: str) -> None:
    await db.execute("UPDATE users SET is_admin = true WHERE id = $1", user_id)


async def member(db: Executor, user_id: str, team_id: str) -> MemberRow | None:
    record = await db.fetchrow(
        """SELECT m.user_id, m.team_id, m.role, u.is_admin, u.status
             FROM members m JOIN users u ON u.id = m.user_id
            WHERE m.user_id = $1 AND m.team_id = $2""",
        user_id,
        team_id,
    )
    return row(record, MemberRow)
