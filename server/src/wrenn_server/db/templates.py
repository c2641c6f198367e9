"""Templates: those of a team, and the platform's own (`team_id` is null), which everybody may use."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, rows


class TemplateRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str | None
    name: str
    image: str | None
    """Root file system on the hosts; None: it is made of snapshots."""
    created_at: datetime


async def visible(db: Executor, team_id: str) -> list[TemplateRow]:
    records = await db.fetch(
        "SELECT * FROM templates WHERE team_id = $1 OR team_id IS NULL ORDER BY team_id NULLS FIRST, name",
        team_id,
    )
    return rows(records, TemplateRow)


async def insert_platform(db: Executor, ids: Sequence[str], names: Sequence[str]) -> None:
    """Adds platform templates; names that exist are left alone."""
    await db.execute(
        """INSERT INTO templates (id, name, image)
           SELECT n.id, n.name, n.name FROM unnest($1::text[], $2::text[]) AS n (id, name)
           ON CONFLICT (team_id, name) DO NOTHING""",
        list(ids),
        list(names),
    )
