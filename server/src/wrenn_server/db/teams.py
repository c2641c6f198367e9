"""Teams: owners of everything."""

from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, row


class TeamRow(msgspec.Struct, kw_only=True):
    id: str
    name: str
    created_at: datetime


async def insert(db: Executor, *, id: str, name: str) -> None:
    await db.execute("INSERT INTO teams (id, name) VALUES ($1, $2)", id, name)


async def add_member(db: Executor, *, team_id: str, user_id: str, role: str) -> None:
    await db.execute(
        "INSERT INTO members (team_id, user_id, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        team_id,
        user_id,
        role,
    )


async def first_of(db: Executor, user_id: str) -> TeamRow | None:
    """The team that a user works in after logging in."""
    record = await db.fetchrow(
        """SELECT t.* FROM members m JOIN teams t ON t.id = m.team_id
            WHERE m.user_id = $1 ORDER BY m.joined_at, t.id LIMIT 1""",
        user_id,
    )
    return row(record, TeamRow)
