"""The ledger balances and only grows; the database sees to it."""

from datetime import UTC, datetime

import asyncpg
import pytest

from wrenn_server.db import ledger
from wrenn_server.db.pool import Database
from wrenn_server.model.pool import Capacity
from wrenn_server.model.pricing import Cost, Period

START, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)


async def post(db: Database, team_id: str = "team_x", start: datetime = START) -> None:
    rate = (await ledger.rates(db))[0].rate
    async with db.transaction() as tx:
        await ledger.post(tx, team_id, Capacity(1, 2, 3), Period(start, END, rate), Cost(10, 20, 30))


async def test_a_charge_is_four_entries(db: Database) -> None:
    await post(db)
    records = await db.fetch("SELECT account, amount FROM ledger_entries ORDER BY amount")
    assert [tuple(record) for record in records] == [
        ("revenue:disk", -30),
        ("revenue:memory", -20),
        ("revenue:vcpus", -10),
        ("team:team_x", 60),
    ]
    [charge] = await ledger.charges(db, "team_x", START, END)
    assert (charge.for_vcpus, charge.for_memory, charge.for_disk, charge.memory_mb) == (10, 20, 30, 2)


async def test_what_does_not_balance_is_not_committed(db: Database) -> None:
    header = """INSERT INTO ledger_transactions (team_id, period_from, period_to, rate_id, vcpus, memory_mb, disk_mb)
                SELECT 't', $1, $2, id, 1, 1, 1 FROM rate_card RETURNING id"""

    async def write(entries: list[tuple[str, int]]) -> None:
        async with db.transaction() as tx:
            id = await tx.fetchval(header, START, END)
            for account, amount in entries:
                await tx.execute("INSERT INTO ledger_entries VALUES ($1, $2, $3)", id, account, amount)

    for entries in ([], [("a", 1)], [("a", 1), ("b", -2)]):
        with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
            await write(entries)
    assert await db.fetchval("SELECT count(*) FROM ledger_transactions") == 0


async def test_nothing_is_changed_or_added_later(db: Database) -> None:
    await post(db)
    id = await db.fetchval("SELECT id FROM ledger_transactions")
    with pytest.raises(asyncpg.RaiseError, match="is closed"):
        await db.execute("INSERT INTO ledger_entries VALUES ($1, 'a', 1), ($1, 'b', -1)", id)
    for table, column in (
        ("ledger_transactions", "vcpus"),
        ("ledger_entries", "amount"),
        ("invoices", "total"),
        ("rate_card", "gib_hour"),
        ("pool_changes", "vcpus"),
    ):
        for statement in ("DELETE FROM {}", "TRUNCATE {} CASCADE", "UPDATE {} SET {} = 1"):
            with pytest.raises(asyncpg.RaiseError, match="append-only"):
                await db.execute(statement.format(table, column))


async def test_a_time_is_charged_once(db: Database) -> None:
    await post(db)
    with pytest.raises(asyncpg.UniqueViolationError):
        await post(db)
    await post(db, "team_y")


async def test_what_was_drawn_between(db: Database) -> None:
    await db.execute(
        """INSERT INTO draws SELECT 'sb', 'team_x', draw, 2, 512, 5120, $1::timestamptz + began, $1 + ended
             FROM (VALUES ('all', interval '0 s', interval '10 s'), ('disk', '10 s', '30 s'), ('all', '30 s', NULL))
                  v (draw, began, ended)""",
        START,
    )

    async def drawn(start: int, end: int) -> Capacity:
        moments = [datetime.fromtimestamp(START.timestamp() + n, UTC) for n in (start, end)]
        return await ledger.drawn_between(db, "team_x", *moments)

    assert await drawn(0, 40) == Capacity(2 * 20, 512 * 20, 5120 * 40)
    assert await drawn(5, 31) == Capacity(2 * 6, 512 * 6, 5120 * 26)
    assert await drawn(-100, 0) == Capacity()
