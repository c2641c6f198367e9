"""Invoices: what the ledger says of a month, and what the same month would have cost by the second of each sandbox.

A month's document is written once, when the month is over and charged (`reconcile/invoices.py`). Until then it can be
seen as it would be now.
"""

import csv
import io
from collections.abc import Sequence
from datetime import datetime

import msgspec

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import ledger
from wrenn_server.db import ledger as db_ledger
from wrenn_server.db import pools as db_pools
from wrenn_server.db.ledger import InvoiceRow
from wrenn_server.db.pool import Connection, Executor
from wrenn_server.model import pricing
from wrenn_server.model.errors import NotFound
from wrenn_server.model.ids import new_invoice_id
from wrenn_server.model.pool import Capacity
from wrenn_server.model.pricing import Cost, Period, Rate

BATCH = 200
_COLUMNS = ("resource", "quantity", "unit", "from", "to", "seconds", "price_micros", "per", "amount_micros")


class Line(msgspec.Struct, kw_only=True, frozen=True):
    """One of vCPUs, memory and disk, at one size and price."""

    resource: str
    quantity: int
    unit: str
    period_from: datetime = msgspec.field(name="from")
    period_to: datetime = msgspec.field(name="to")
    seconds: int
    price_micros: int
    per: str
    amount_micros: int


class Metered(msgspec.Struct, kw_only=True, frozen=True):
    """What the month would have cost by the second of each sandbox. The amounts are what was drawn."""

    vcpu_seconds: int
    memory_mb_seconds: int
    disk_mb_seconds: int
    total_micros: int


class Invoice(msgspec.Struct, kw_only=True, frozen=True):
    id: str | None
    """None: it is not issued."""
    team_id: str
    month: str
    """YYYY-MM, in UTC."""
    currency: str
    lines: list[Line]
    total_micros: int
    by_sandbox_second: Metered
    until: datetime
    """Up to when this counts; the end of the month when it is issued."""
    issued_at: datetime | None = None


async def listing(cp: ControlPlane, team_id: str) -> list[InvoiceRow]:
    """Newest first."""
    return await db_ledger.invoices(cp.db, team_id)


async def get(cp: ControlPlane, team_id: str, invoice_id: str) -> InvoiceRow:
    """:raises NotFound:"""
    row = await db_ledger.invoice(cp.db, team_id, invoice_id)
    if row is None:
        raise NotFound(f"invoice {invoice_id[:64]} does not exist")
    return row


async def preview(cp: ControlPlane, team_id: str) -> Invoice:
    """This month until now, as if it ended now. Nothing is written."""
    now = await db_ledger.now(cp.db)
    pool = await db_pools.get(cp.db, team_id)
    rates = [row.rate for row in await db_ledger.rates(cp.db)]
    start = pricing.month_start(now)
    lines = await _posted(cp.db, team_id, start, rates)
    if pool is not None:
        for period in pricing.periods(max(pool.charged_until, start), now, rates):
            lines += _lines(pool.bought, period, pricing.cost(pool.bought, period))
    return await _invoice(cp.db, team_id, start, now, lines, rates)


async def issue_all(cp: ControlPlane) -> None:
    """Charges the months that are over, and writes their invoices. Whoever does it at the same time does no harm."""
    month = pricing.month_start(await db_ledger.now(cp.db))
    while teams := await db_ledger.uncharged(cp.db, month, BATCH):
        for team_id in teams:
            async with cp.db.transaction() as tx:
                pool = await db_pools.lock(tx, team_id)
                if pool is not None:
                    await ledger.charge(tx, pool, month)
    while due := await db_ledger.without_invoice(cp.db, month, BATCH):
        for team_id, start in due:
            async with cp.db.transaction() as tx:
                await _issue(tx, team_id, start)


async def _issue(tx: Connection, team_id: str, start: datetime) -> None:
    rates = [row.rate for row in await db_ledger.rates(tx)]
    end = pricing.month_end(start)
    lines = await _posted(tx, team_id, start, rates)
    drafted = await _invoice(tx, team_id, start, end, lines, rates)
    issued = msgspec.structs.replace(drafted, id=new_invoice_id(), issued_at=await db_ledger.now(tx))
    if issued.id is None or issued.issued_at is None:
        raise AssertionError("both were set")
    await db_ledger.issue(
        tx,
        InvoiceRow(
            id=issued.id,
            team_id=team_id,
            month=start.date(),
            currency=issued.currency,
            total=issued.total_micros,
            document=msgspec.json.encode(issued).decode(),
            csv=as_csv(issued),
            issued_at=issued.issued_at,
        ),
    )


async def _posted(db: Executor, team_id: str, start: datetime, rates: Sequence[Rate]) -> list[Line]:
    by_id = {rate.id: rate for rate in rates}
    lines: list[Line] = []
    for charge in await db_ledger.charges(db, team_id, start, pricing.month_end(start)):
        period = Period(charge.period_from, charge.period_to, by_id[charge.rate_id])
        size = Capacity(charge.vcpus, charge.memory_mb, charge.disk_mb)
        lines += _lines(size, period, Cost(charge.for_vcpus, charge.for_memory, charge.for_disk))
    return lines


def _lines(size: Capacity, period: Period, cost: Cost) -> list[Line]:
    prices = period.rate.prices
    return [
        Line(
            resource=resource,
            quantity=quantity,
            unit=unit,
            period_from=period.start,
            period_to=period.end,
            seconds=period.seconds,
            price_micros=price,
            per=per,
            amount_micros=amount,
        )
        for resource, quantity, unit, price, per, amount in (
            ("vcpus", size.vcpus, "vCPU", prices.vcpu_hour, "vCPU-hour", cost.vcpus),
            ("memory", size.memory_mb, "MiB", prices.gib_hour, "GiB-hour", cost.memory),
            ("disk", size.disk_mb, "MiB", prices.gib_month, "GiB-month", cost.disk),
        )
    ]


async def _invoice(
    db: Executor, team_id: str, start: datetime, until: datetime, lines: list[Line], rates: Sequence[Rate]
) -> Invoice:
    drawn, total = Capacity(), 0
    for period in pricing.periods(start, until, rates):
        amount = await db_ledger.drawn_between(db, team_id, period.start, period.end)
        total += pricing.used(amount, period, period.rate.metered).total
        drawn = Capacity(
            drawn.vcpus + amount.vcpus, drawn.memory_mb + amount.memory_mb, drawn.disk_mb + amount.disk_mb
        )
    return Invoice(
        id=None,
        team_id=team_id,
        month=f"{start:%Y-%m}",
        currency=rates[-1].currency,
        lines=lines,
        total_micros=sum(line.amount_micros for line in lines),
        by_sandbox_second=Metered(
            vcpu_seconds=drawn.vcpus,
            memory_mb_seconds=drawn.memory_mb,
            disk_mb_seconds=drawn.disk_mb,
            total_micros=total,
        ),
        until=until,
    )


def as_csv(invoice: Invoice) -> str:
    """One row for each line, then the total, and what it would have been by the second of each sandbox (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("invoice", "month", "currency", *_COLUMNS))
    head = (invoice.id or "", invoice.month, invoice.currency)
    for line in invoice.lines:
        values = msgspec.to_builtins(line)
        writer.writerow((*head, *(values[column] for column in _COLUMNS)))
    for name, amount in (
        ("total", invoice.total_micros),
        ("total by sandbox-second", invoice.by_sandbox_second.total_micros),
    ):
        writer.writerow((*head, name, *[""] * (len(_COLUMNS) - 2), amount))
    return text.getvalue()
