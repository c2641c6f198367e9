"""Users and their membership of teams."""

from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.model.people import Role, Status


class UserRow(msgspec.Struct, kw_only=True):
    id: str
    email: str
    name: str
    password_hash: str | None
    is_admin: bool
    status: Status
    created_at: datetime


class MemberRow(msgspec.Struct, kw_only=True):
    """A user as the member of one team: what a request may do is decided by this, read anew each time."""

    user_id: str
    team_id: str
    role: Role
    is_admin: bool
    status: Status


class AccountRow(msgspec.Struct, kw_only=True):
    """A user as administrators see them."""

    id: str
    email: str
    name: str
    is_admin: bool
    status: Status
    created_at: datetime
    teams_joined: int
    teams_owned: int


async def insert(
    db: Executor,
    *,
    id: str,
    email: str,
    name: str,
    password_hash: str | None,
    is_admin: bool,
    status: Status = "active",
) -> UserRow | None:
    """None when the address is taken.

    :param email: lower case
    """
    record = await db.fetchrow(
        """INSERT INTO users (id, email, name, password_hash, is_admin, status) VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT (email) DO NOTHING RETURNING *""",
        id,
        email,
        name,
        password_hash,
        is_admin,
        status,
    )
    return row(record, UserRow)


async def get(db: Executor, user_id: str) -> UserRow | None:
    return row(await db.fetchrow("SELECT * FROM users WHERE id = $1", user_id), UserRow)


async def lock(db: Executor, user_id: str) -> UserRow | None:
    """The same, for the rest of the transaction."""
    return row(await db.fetchrow("SELECT * FROM users WHERE id = $1 FOR UPDATE", user_id), UserRow)


async def by_email(db: Executor, email: str) -> UserRow | None:
    return row(await db.fetchrow("SELECT * FROM users WHERE email = $1", email), UserRow)


async def set_password(db: Executor, user_id: str, password_hash: str) -> None:
    await db.execute("UPDATE users SET password_hash = $2 WHERE id = $1", user_id, password_hash)


async def make_admin(db: Executor, user_id: str) -> None:
    await db.execute("UPDATE users SET is_admin = true WHERE id = $1", user_id)


async def set_name(db: Executor, user_id: str, name: str) -> UserRow | None:
    record = await db.fetchrow(
        "UPDATE users SET name = $2, updated_at = now() WHERE id = $1 RETURNING *", user_id, name
    )
    return row(record, UserRow)


async def set_status(db: Executor, user_id: str, status: Status) -> None:
    await db.execute("UPDATE users SET status = $2, updated_at = now() WHERE id = $1", user_id, status)


async def replace_pending(db: Executor, user_id: str, *, name: str, password_hash: str) -> bool:
    """A sign-up that was never activated is overwritten by the next one. False: it has been activated since."""
    done = await db.execute(
        """UPDATE users SET name = $2, password_hash = $3, updated_at = now()
            WHERE id = $1 AND status = 'pending'""",
        user_id,
        name,
        password_hash,
    )
    return done != "UPDATE 0"


async def forget(db: Executor, user_id: str) -> None:
    """What remains is a row that others refer to, without a person in it."""
    await db.execute(
        """UPDATE users SET status = 'deleted', email = lower(id) || '@deleted.invalid', name = 'deleted user',
                  password_hash = NULL, is_admin = false, updated_at = now()
            WHERE id = $1""",
        user_id,
    )
    await db.execute("DELETE FROM identities WHERE user_id = $1", user_id)


async def is_last_admin(db: Executor, user_id: str) -> bool:
    return not await db.fetchval(
        "SELECT EXISTS (SELECT FROM users WHERE is_admin AND status = 'active' AND id <> $1)", user_id
    )


async def set_admin(db: Executor, user_id: str, *, is_admin: bool) -> None:
    await db.execute("UPDATE users SET is_admin = $2, updated_at = now() WHERE id = $1", user_id, is_admin)


async def accounts(db: Executor, *, after: tuple[datetime, str] | None, limit: int) -> list[AccountRow]:
    """Newest first."""
    records = await db.fetch(
        """SELECT u.*, count(m) AS teams_joined, count(m) FILTER (WHERE m.role = 'owner') AS teams_owned
             FROM users u LEFT JOIN members m ON m.user_id = u.id
            WHERE u.status <> 'deleted' AND ($1::timestamptz IS NULL OR (u.created_at, u.id) < ($1, $2))
            GROUP BY u.id ORDER BY u.created_at DESC, u.id DESC LIMIT $3""",
        after[0] if after else None,
        after[1] if after else None,
        limit,
    )
    return rows(records, AccountRow)


async def member(
    db: Executor, user_id: str, team_id: str, session_id: str | None
) -> tuple[MemberRow | None, bool]:
    """The membership, if there still is one, and whether the session still lasts."""
    record = await db.fetchrow(
        """SELECT m.user_id, m.team_id, m.role, u.is_admin, u.status,
                  $3::text IS NULL OR EXISTS (
                      SELECT FROM sessions WHERE id = $3 AND user_id = $1 AND expires_at > now()) AS lasting
             FROM members m JOIN users u ON u.id = m.user_id
            WHERE m.user_id = $1 AND m.team_id = $2""",
        user_id,
        team_id,
        session_id,
    )
    return row(record, MemberRow), record is not None and record["lasting"]
