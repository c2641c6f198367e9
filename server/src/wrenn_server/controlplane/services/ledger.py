"""Prices, and what pools cost: every time of a pool is charged once, at its end or at the end of its month, in the
transaction that ends it. The sums are `model/pricing.py`'s."""

from datetime import datetime

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import ledger as db_ledger
from wrenn_server.db.ledger import RateRow
from wrenn_server.db.pool import Connection, Executor
from wrenn_server.db.pools import PoolRow
from wrenn_server.model import pricing
from wrenn_server.model.errors import Conflict, InvalidRequest
from wrenn_server.model.pool import Capacity
from wrenn_server.model.pricing import Prices, Rate


async def charge(tx: Connection, pool: PoolRow, until: datetime | None = None) -> None:
    """Writes what a locked pool cost since it was charged last. :param until: None: now"""
    await db_ledger.hold_rates(tx)
    until = until or await db_ledger.now(tx)
    if until <= pool.charged_until:
        return
    for period in pricing.periods(pool.charged_until, until, await _rates(tx)):
        await db_ledger.post(tx, pool.team_id, pool.bought, period, pricing.cost(pool.bought, period))
    await db_ledger.charged(tx, pool.team_id, until)


async def demand_within(
    tx: Connection, team_id: str, before: Capacity | None, size: Capacity, limit: int | None
) -> None:
    """Growth of a pool that has been charged until now.

    :param before: None: there was no pool; :param limit: of a month, in millionths
    :raises Conflict: `spend_limit_reached`, this month would cost more
    """
    old = before or Capacity()
    grows = size.vcpus > old.vcpus or size.memory_mb > old.memory_mb or size.disk_mb > old.disk_mb
    if limit is None or not grows:
        return
    now = await db_ledger.now(tx)
    start, end = pricing.month_start(now), pricing.month_end(now)
    spent = sum(
        c.for_vcpus + c.for_memory + c.for_disk for c in await db_ledger.charges(tx, team_id, start, end)
    )
    rest = sum(pricing.cost(size, period).total for period in pricing.periods(now, end, await _rates(tx)))
    if spent + rest > limit:
        raise Conflict(
            f"this month would cost {spent + rest} millionths, the spend limit is {limit}",
            code="spend_limit_reached",
            hint="ask for a smaller pool, or set a higher spend_limit with it",
        )


async def rates(cp: ControlPlane) -> list[RateRow]:
    """All that ever were and that will be, by their beginnings."""
    return await db_ledger.rates(cp.db)


async def set_rate(
    cp: ControlPlane,
    *,
    effective_from: datetime | None,
    currency: str,
    prices: Prices,
    metered: Prices,
    created_by: str | None,
) -> RateRow:
    """A price from then on; what was charged before stays.

    :param effective_from: None: now
    :raises InvalidRequest: it would begin in the past, or not at a whole second
    :raises Conflict: `currency_changed`, what was charged is in another one; `rate_exists`
    """
    async with cp.db.transaction() as tx:
        await db_ledger.lock_rates(tx)
        now = await db_ledger.now(tx)
        start = effective_from or now
        if start.microsecond or start < now:
            raise InvalidRequest("effective_from must be a whole second that is not over yet")
        known = await _rates(tx)
        if known[-1].id != known[0].id and known[-1].currency != currency:
            raise Conflict(
                f"the prices are in {known[-1].currency}: a ledger has one currency", code="currency_changed"
            )
        rate = Rate(0, start, currency, prices, metered)
        added = await db_ledger.add_rate(tx, rate, created_by)
    if added is None:
        raise Conflict(f"there is a price that begins at {start.isoformat()} already", code="rate_exists")
    return added


async def _rates(db: Executor) -> list[Rate]:
    return [row.rate for row in await db_ledger.rates(db)]
