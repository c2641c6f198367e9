"""Lists of a team's sandboxes, page by page.

The statement has only the conditions that are asked for: a condition that is always there but means nothing would keep
PostgreSQL from the index that serves the others.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from wrenn_server.db.pool import Executor, rows
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.sandbox import State


async def page(
    db: Executor,
    team_id: str,
    *,
    states: Collection[State] | None,
    metadata: Mapping[str, str],
    template_id: str | None = None,
    snapshot_id: str | None = None,
    since: datetime | None = None,
    ascending: bool = False,
    after: tuple[datetime, str] | None = None,
    limit: int,
) -> list[SandboxRow]:
    """By the time of their creation, newest first unless `ascending`.

    :param states: None: all that have not ended
    :param metadata: all of it must be theirs
    :param since: created at that time or later
    :param after: time of creation and id of the last one of the page before
    """
    args: list[object] = [team_id]

    def arg(value: object) -> str:
        args.append(value)
        return f"${len(args)}"

    conditions = ["team_id = $1"]
    if states is None or not any(state.is_final for state in states):
        conditions.append("state NOT IN ('failed', 'killed')")  # word for word the condition of the indexes
    if states is not None:
        conditions.append(f"state = ANY({arg([state.value for state in states])})")
    if metadata:
        conditions.append(f"metadata <> '{{}}' AND metadata @> {arg(metadata)}")
    if template_id is not None:
        conditions.append(f"template_id = {arg(template_id)}")
    if snapshot_id is not None:
        conditions.append(f"snapshot_id = {arg(snapshot_id)}")
    if since is not None:
        conditions.append(f"created_at >= {arg(since)}")
    if after is not None:
        conditions.append(
            f"(created_at, id) {'>' if ascending else '<'} ({arg(after[0])}::timestamptz, {arg(after[1])}::text)"
        )
    order = "ASC" if ascending else "DESC"
    records = await db.fetch(
        f"""SELECT * FROM sandboxes WHERE {" AND ".join(conditions)}
             ORDER BY created_at {order}, id {order} LIMIT {arg(limit)}""",  # noqa: S608 - values are arguments
        *args,
    )
    return rows(records, SandboxRow)


async def count(db: Executor, team_id: str, states: Collection[State]) -> int:
    """:param states: of those that have not ended"""
    return await db.fetchval(
        """SELECT count(*) FROM sandboxes
            WHERE team_id = $1 AND state = ANY($2) AND state NOT IN ('failed', 'killed')""",
        team_id,
        [state.value for state in states],
    )
