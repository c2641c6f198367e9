"""Templates: those of a team, and the platform's own (`team_id` is null), which everybody may use.

A template with an `image` starts from that root file system. The others are made of snapshots: each of their tags
leads to one.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from wrenn_server.db.pool import Executor, row, rows
from wrenn_server.model.template import DEFAULT_TAG


class TemplateRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str | None
    name: str
    image: str | None
    """Root file system on the hosts; None: it is made of snapshots."""
    created_at: datetime


class TagRow(msgspec.Struct, kw_only=True):
    tag: str
    snapshot_id: str
    created_at: datetime


class FoundRow(TemplateRow):
    snapshot_id: str | None
    """That the tag which was asked for leads to."""


class SummaryRow(TemplateRow):
    """With what its name alone leads to; None: nothing, or its image."""

    snapshot_id: str | None
    vcpus: int | None
    memory_mb: int | None
    disk_mb: int | None
    saved_at: datetime | None
    snapshots: int
    """That its tags lead to."""


async def visible(db: Executor, team_id: str) -> list[TemplateRow]:
    records = await db.fetch(
        "SELECT * FROM templates WHERE team_id = $1 OR team_id IS NULL ORDER BY team_id NULLS FIRST, name",
        team_id,
    )
    return rows(records, TemplateRow)


async def find(db: Executor, team_id: str, names: Sequence[str], tag: str) -> FoundRow | None:
    """By one of the names or an id; the team's own come first, then the platform's."""
    record = await db.fetchrow(
        """SELECT t.*, g.snapshot_id
             FROM templates t LEFT JOIN template_tags g ON g.template_id = t.id AND g.tag = $3
            WHERE (t.name = ANY($2) OR t.id = ANY($2)) AND (t.team_id = $1 OR t.team_id IS NULL)
            ORDER BY t.team_id NULLS LAST LIMIT 1""",
        team_id,
        list(names),
        tag,
    )
    return row(record, FoundRow)


async def summaries(db: Executor, team_id: str | None, *, template_id: str | None = None) -> list[SummaryRow]:
    """Of a team, or (None) of the platform; all, or one. The oldest first."""
    records = await db.fetch(
        """SELECT t.*, s.id AS snapshot_id, s.vcpus, s.memory_mb, s.disk_mb, s.created_at AS saved_at,
                  (SELECT count(DISTINCT snapshot_id) FROM template_tags WHERE template_id = t.id) AS snapshots
             FROM templates t
             LEFT JOIN template_tags g ON g.template_id = t.id AND g.tag = $3
             LEFT JOIN snapshots s ON s.id = g.snapshot_id
            WHERE t.team_id IS NOT DISTINCT FROM $1 AND ($2::text IS NULL OR t.id = $2)
            ORDER BY t.created_at, t.id""",
        team_id,
        template_id,
        DEFAULT_TAG,
    )
    return rows(records, SummaryRow)


async def exists(db: Executor, team_id: str, names: Sequence[str]) -> bool:
    """Whether that team itself has a template of one of the names."""
    return await db.fetchval(
        "SELECT EXISTS (SELECT FROM templates WHERE team_id = $1 AND name = ANY($2))", team_id, list(names)
    )


async def insert_platform(db: Executor, ids: Sequence[str], names: Sequence[str]) -> None:
    """Adds platform templates; names that exist are left alone."""
    await db.execute(
        """INSERT INTO templates (id, name, image)
           SELECT n.id, n.name, n.name FROM unnest($1::text[], $2::text[]) AS n (id, name)
           ON CONFLICT (team_id, name) DO NOTHING""",
        list(ids),
        list(names),
    )


async def ensure(db: Executor, id: str, team_id: str, name: str) -> TemplateRow:
    """The team's template of this name, made when there is none."""
    record = await db.fetchrow(
        """INSERT INTO templates (id, team_id, name) VALUES ($1, $2, $3)
           ON CONFLICT (team_id, name) DO UPDATE SET name = excluded.name RETURNING *""",
        id,
        team_id,
        name,
    )
    found = row(record, TemplateRow)
    if found is None:
        raise LookupError("INSERT returned nothing")
    return found


async def delete(db: Executor, template_id: str) -> None:
    """Its tags go with it, their snapshots do not."""
    await db.execute("DELETE FROM templates WHERE id = $1", template_id)


# Tags


async def tag(db: Executor, template_id: str, tag: str) -> str | None:
    """The snapshot that it leads to."""
    return await db.fetchval(
        "SELECT snapshot_id FROM template_tags WHERE template_id = $1 AND tag = $2", template_id, tag
    )


async def tags(db: Executor, template_id: str) -> list[TagRow]:
    """The newest first."""
    records = await db.fetch(
        "SELECT * FROM template_tags WHERE template_id = $1 ORDER BY created_at DESC, tag", template_id
    )
    return rows(records, TagRow)


async def set_tags(db: Executor, template_id: str, tags: Sequence[str], snapshot_id: str) -> None:
    """Tags that led elsewhere lead to this snapshot now."""
    await db.execute(
        """INSERT INTO template_tags (template_id, tag, snapshot_id)
           SELECT $1, t, $3 FROM unnest($2::text[]) AS t
           ON CONFLICT (template_id, tag) DO UPDATE SET snapshot_id = excluded.snapshot_id, created_at = now()""",
        template_id,
        sorted(set(tags)),
        snapshot_id,
    )


async def remove_tags(db: Executor, template_id: str, tags: Sequence[str]) -> None:
    await db.execute(
        "DELETE FROM template_tags WHERE template_id = $1 AND tag = ANY($2)", template_id, list(tags)
    )


async def untag(db: Executor, snapshot_ids: Sequence[str]) -> None:
    """No tag leads to these any more; templates that are left with none are gone."""
    records = await db.fetch(
        "DELETE FROM template_tags WHERE snapshot_id = ANY($1) RETURNING template_id", list(snapshot_ids)
    )
    await db.execute(
        """DELETE FROM templates t WHERE id = ANY($1) AND image IS NULL
              AND NOT EXISTS (SELECT FROM template_tags WHERE template_id = t.id)""",
        [record["template_id"] for record in records],
    )
