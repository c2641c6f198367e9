"""Lists: every filter and both directions give the right rows, and none of them reads the whole table."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from db.test_sandboxes import ROOM, new_host, new_team, wanted

from wrenn_server.db import listing, sandboxes, transitions
from wrenn_server.db.pool import Database
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.sandbox import State

MANY = 100_000
START = datetime(2026, 1, 1, tzinfo=UTC)


async def ids(db: Database, team_id: str, **asked: Any) -> list[str]:
    options: dict[str, Any] = {"states": None, "metadata": {}, "limit": 100, **asked}
    return [row.id for row in await listing.page(db, team_id, **options)]


async def made(db: Database, team_id: str, **changes: Any) -> list[SandboxRow]:
    """Six, a second apart."""
    host_id = await new_host(db, cpus=100)
    new = [wanted(team_id, **changes, metadata={"n": str(n % 2)}) for n in range(6)]
    rows = await sandboxes.insert_many(db, new, host_id, ROOM)
    for n, row in enumerate(rows):
        row.created_at = START + timedelta(seconds=n)
        await db.execute("UPDATE sandboxes SET created_at = $2 WHERE id = $1", row.id, row.created_at)
    return rows


async def test_both_directions_and_their_pages(db: Database) -> None:
    team_id = await new_team(db)
    rows = await made(db, team_id)
    oldest_first = [row.id for row in rows]
    for ascending in (True, False):
        seen: list[str] = []
        after = None
        while page := await listing.page(
            db, team_id, states=None, metadata={}, ascending=ascending, after=after, limit=4
        ):
            seen += [row.id for row in page]
            after = (page[-1].created_at, page[-1].id)
        assert seen == (oldest_first if ascending else oldest_first[::-1])


async def test_since_includes_its_moment(db: Database) -> None:
    team_id = await new_team(db)
    rows = await made(db, team_id)
    since = rows[3].created_at
    assert await ids(db, team_id, since=since, ascending=True) == [row.id for row in rows[3:]]
    assert await ids(db, team_id, since=since + timedelta(microseconds=1)) == [rows[5].id, rows[4].id]


async def test_filters_and_all_of_them_together(db: Database) -> None:
    team_id, other = await new_team(db), await new_team(db)
    rows = await made(db, team_id, template_id="tpl_a", snapshot_id="snap_a")
    await made(db, team_id, template_id="tpl_b")
    await made(db, other, template_id="tpl_a", snapshot_id="snap_a")
    newest_first = [row.id for row in reversed(rows)]
    assert await ids(db, team_id, template_id="tpl_a") == newest_first
    assert await ids(db, team_id, snapshot_id="snap_a") == newest_first
    assert await ids(db, team_id, template_id="tpl_c") == []
    await transitions.settle(db, rows[0].id, 1, [State.STARTING], State.KILLED)
    await transitions.settle(db, rows[2].id, 1, [State.STARTING], State.PAUSED)
    asked: dict[str, Any] = {
        "template_id": "tpl_a", "snapshot_id": "snap_a", "metadata": {"n": "0"}, "since": rows[1].created_at,
    }  # fmt: skip
    assert await ids(db, team_id, **asked) == [rows[4].id, rows[2].id]
    assert await ids(db, team_id, **asked, states=[State.PAUSED]) == [rows[2].id]
    assert await ids(db, team_id, states=[State.KILLED, State.PAUSED], ascending=True) == [
        rows[0].id,
        rows[2].id,
    ]
    assert await ids(db, team_id, metadata={"n": "0", "m": "0"}) == []


async def crowd(db: Database) -> str:
    """A team with 100,000 sandboxes; half of them ended, one in a thousand of any template, snapshot or label."""
    team_id = await new_team(db)
    await db.execute("ALTER TABLE sandboxes DISABLE TRIGGER ALL")
    await db.execute(
        """INSERT INTO sandboxes (id, team_id, template_id, template, state, vcpus, memory_mb, disk_mb, access_token,
                                  metadata, snapshot_id, created_at)
           SELECT 'sb' || lpad(n::text, 20, '0'), $1, 'tpl_' || n % 1000, 'minimal',
                  CASE n % 2 WHEN 0 THEN 'running' ELSE 'killed' END, 1, 512, 512, 't',
                  CASE n % 10 WHEN 0 THEN '{}' ELSE jsonb_build_object('user', (n % 1000)::text) END,
                  'snap_' || n % 1000, $2::timestamptz + n * interval '1 second'
             FROM generate_series(1, $3) n""",
        team_id,
        START,
        MANY,
    )
    await db.execute("ANALYZE sandboxes")
    return team_id


class Explaining:
    """A database that explains statements instead of executing them; with generic plans, as they are made for
    statements that are used often."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.plan: dict[str, Any] = {}

    async def fetch(self, sql: str, *args: object) -> list[object]:
        async with self._db.transaction() as tx:
            await tx.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            explained = await tx.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *args)
        self.plan = msgspec.json.decode(explained)[0]
        return []


CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "sandboxes_alive"),
    ({"ascending": True}, "sandboxes_alive"),
    ({"after": (START + timedelta(seconds=500), "sb")}, "sandboxes_alive"),
    ({"after": (START + timedelta(seconds=500), "sb"), "ascending": True}, "sandboxes_alive"),
    ({"since": START + timedelta(seconds=MANY - 50)}, "sandboxes_alive"),
    ({"states": [State.RUNNING, State.PAUSED]}, "sandboxes_alive"),
    ({"states": [State.KILLED]}, "sandboxes_team"),
    ({"template_id": "tpl_500"}, "sandboxes_template"),
    ({"template_id": "tpl_nonesuch", "ascending": True}, "sandboxes_template"),
    ({"snapshot_id": "snap_500"}, "sandboxes_snapshot"),
    ({"snapshot_id": "snap_nonesuch", "states": [State.RUNNING]}, "sandboxes_snapshot"),
    ({"metadata": {"user": "502"}}, "sandboxes_metadata"),
    ({"metadata": {"user": "nonesuch"}}, "sandboxes_metadata"),
]


async def test_every_list_has_its_index(db: Database) -> None:
    team_id = await crowd(db)
    explaining = Explaining(db)
    for asked, index in CASES:
        options: dict[str, Any] = {"states": None, "metadata": {}, "limit": 101, **asked}
        await listing.page(explaining, team_id, **options)  # pyright: ignore[reportArgumentType] - what it uses of it
        text = msgspec.json.encode(explaining.plan).decode()
        assert "Seq Scan" not in text, (asked, text)
        assert f'"Index Name":"{index}"' in text, (asked, text)
        plan = explaining.plan["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 2000, (asked, text)
