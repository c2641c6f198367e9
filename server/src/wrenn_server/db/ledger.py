"""Prices, what pools cost, and invoices. All of it is append-only: triggers refuse everything else."""

from datetime import date, datetime

import msgspec

from wrenn_server.db.pool import Connection, Executor, row, rows
from wrenn_server.model.pool import Capacity
from wrenn_server.model.pricing import Cost, Period, Prices, Rate


class RateRow(msgspec.Struct, kw_only=True):
    id: int
    effective_from: datetime
    currency: str
    vcpu_hour: int
    gib_hour: int
    gib_month: int
    metered_vcpu_hour: int
    metered_gib_hour: int
    metered_gib_month: int

    @property
    def rate(self) -> Rate:
        return Rate(
            self.id,
            self.effective_from,
            self.currency,
            Prices(self.vcpu_hour, self.gib_hour, self.gib_month),
            Prices(self.metered_vcpu_hour, self.metered_gib_hour, self.metered_gib_month),
        )


class ChargeRow(msgspec.Struct, kw_only=True):
    """A transaction of the ledger, with what it says that the team owes for each of the three."""

    period_from: datetime
    period_to: datetime
    rate_id: int
    vcpus: int
    memory_mb: int
    disk_mb: int
    for_vcpus: int
    for_memory: int
    for_disk: int


class InvoiceRow(msgspec.Struct, kw_only=True):
    id: str
    team_id: str
    month: date
    currency: str
    total: int
    document: str
    """JSON."""
    csv: str
    issued_at: datetime


# Prices


async def rates(db: Executor) -> list[RateRow]:
    """By their beginnings. The first one has always been."""
    records = await db.fetch("SELECT * FROM rate_card ORDER BY effective_from")
    return rows(records, RateRow)


async def lock_rates(tx: Connection) -> None:
    """Until the end of the transaction no price is added, and whoever charges waits."""
    await tx.execute("LOCK TABLE rate_card IN EXCLUSIVE MODE")


async def add_rate(tx: Connection, rate: Rate, created_by: str | None) -> RateRow | None:
    """None: there is one that begins at the same second."""
    record = await tx.fetchrow(
        """INSERT INTO rate_card (effective_from, currency, vcpu_hour, gib_hour, gib_month, metered_vcpu_hour,
                                  metered_gib_hour, metered_gib_month, created_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING *""",
        rate.effective_from,
        rate.currency,
        rate.prices.vcpu_hour,
        rate.prices.gib_hour,
        rate.prices.gib_month,
        rate.metered.vcpu_hour,
        rate.metered.gib_hour,
        rate.metered.gib_month,
        created_by,
    )
    return row(record, RateRow)


async def now(db: Executor) -> datetime:
    """The database's clock, which all control planes share; whole seconds."""
    return await db.fetchval("SELECT date_trunc('second', clock_timestamp())")


# The ledger


async def hold_rates(tx: Connection) -> None:
    """Until the end of the transaction no price is added, so none can begin before what is charged now."""
    await tx.execute("LOCK TABLE rate_card IN SHARE MODE")


async def post(tx: Connection, team_id: str, size: Capacity, period: Period, cost: Cost) -> None:
    await tx.execute(
        """WITH posted AS (
               INSERT INTO ledger_transactions (team_id, period_from, period_to, rate_id, vcpus, memory_mb, disk_mb)
               VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id)
           INSERT INTO ledger_entries (transaction_id, account, amount)
           SELECT posted.id, e.account, e.amount
             FROM posted, (VALUES ('team:' || $1, $8::bigint + $9 + $10), ('revenue:vcpus', -$8),
                                  ('revenue:memory', -$9::bigint), ('revenue:disk', -$10::bigint)) e (account, amount)""",
        team_id,
        period.start,
        period.end,
        period.rate.id,
        size.vcpus,
        size.memory_mb,
        size.disk_mb,
        cost.vcpus,
        cost.memory,
        cost.disk,
    )


async def charged(tx: Connection, team_id: str, until: datetime) -> None:
    """The pool's time until then is in the ledger. The pool is locked."""
    await tx.execute("UPDATE pools SET charged_until = $2 WHERE team_id = $1", team_id, until)


async def charges(db: Executor, team_id: str, start: datetime, end: datetime) -> list[ChargeRow]:
    """Of a time that begins and ends with months, oldest first."""
    records = await db.fetch(
        """SELECT t.*, -v.amount AS for_vcpus, -m.amount AS for_memory, -d.amount AS for_disk
             FROM ledger_transactions t
             JOIN ledger_entries v ON v.transaction_id = t.id AND v.account = 'revenue:vcpus'
             JOIN ledger_entries m ON m.transaction_id = t.id AND m.account = 'revenue:memory'
             JOIN ledger_entries d ON d.transaction_id = t.id AND d.account = 'revenue:disk'
            WHERE t.team_id = $1 AND t.period_from >= $2 AND t.period_from < $3 ORDER BY t.period_from""",
        team_id,
        start,
        end,
    )
    return rows(records, ChargeRow)


async def uncharged(db: Executor, until: datetime, limit: int) -> list[str]:
    """Teams whose pools are not charged until then."""
    records = await db.fetch(
        "SELECT team_id FROM pools WHERE charged_until < $1 ORDER BY team_id LIMIT $2", until, limit
    )
    return [record["team_id"] for record in records]


async def drawn_between(db: Executor, team_id: str, start: datetime, end: datetime) -> Capacity:
    """What the team's sandboxes drew, in whole vCPU-seconds and MiB-seconds."""
    record = await db.fetchrow(
        """SELECT round(coalesce(sum(d.vcpus * s.seconds) FILTER (WHERE d.draw = 'all'), 0))::bigint AS vcpus,
                  round(coalesce(sum(d.memory_mb * s.seconds) FILTER (WHERE d.draw = 'all'), 0))::bigint AS memory_mb,
                  round(coalesce(sum(d.disk_mb * s.seconds), 0))::bigint AS disk_mb
             FROM draws d,
                  LATERAL (SELECT extract(epoch FROM least(d.ended_at, $3) - greatest(d.began_at, $2))) s (seconds)
            WHERE d.team_id = $1 AND d.began_at < $3 AND (d.ended_at IS NULL OR d.ended_at > $2)""",
        team_id,
        start,
        end,
    )
    return row(record, Capacity) or Capacity()


# Invoices


async def without_invoice(db: Executor, before: datetime, limit: int) -> list[tuple[str, datetime]]:
    """Teams and months that ended before then and have charges."""
    records = await db.fetch(
        """SELECT DISTINCT t.team_id, m.month AT TIME ZONE 'UTC' AS month
             FROM ledger_transactions t, LATERAL (SELECT date_trunc('month', t.period_from AT TIME ZONE 'UTC')) m (month)
            WHERE t.period_to <= $1
              AND NOT EXISTS (SELECT FROM invoices i WHERE i.team_id = t.team_id AND i.month = m.month::date)
            ORDER BY t.team_id, month LIMIT $2""",
        before,
        limit,
    )
    return [(record["team_id"], record["month"]) for record in records]


async def issue(tx: Connection, invoice: InvoiceRow) -> None:
    """Unless the month has one."""
    await tx.execute(
        """INSERT INTO invoices (id, team_id, month, currency, total, document, csv, issued_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (team_id, month) DO NOTHING""",
        invoice.id,
        invoice.team_id,
        invoice.month,
        invoice.currency,
        invoice.total,
        invoice.document,
        invoice.csv,
        invoice.issued_at,
    )


async def invoices(db: Executor, team_id: str) -> list[InvoiceRow]:
    """Newest first."""
    records = await db.fetch("SELECT * FROM invoices WHERE team_id = $1 ORDER BY month DESC", team_id)
    return rows(records, InvoiceRow)


async def invoice(db: Executor, team_id: str, invoice_id: str) -> InvoiceRow | None:
    record = await db.fetchrow("SELECT * FROM invoices WHERE team_id = $1 AND id = $2", team_id, invoice_id)
    return row(record, InvoiceRow)
