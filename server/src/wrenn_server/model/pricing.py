"""What capacity costs, in whole millionths of the currency's unit.

```
 vCPUs    vCPUs x price of a vCPU-hour x seconds / 3600
 memory   MiB / 1024 x price of a GiB-hour x seconds / 3600
 disk     MiB / 1024 x price of a GiB-month x seconds / seconds of that calendar month (UTC)
```
Each of the three is rounded once, half up. Time is cut at the beginnings of months and of prices, so that a period has
one of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from wrenn_server.model.pool import Capacity

HOUR = 3600
GIB = 1024
"""MiB."""


@dataclass(frozen=True, slots=True)
class Prices:
    vcpu_hour: int
    gib_hour: int
    gib_month: int


@dataclass(frozen=True, slots=True)
class Rate:
    """
    :ivar metered: what the same would cost by the second of each sandbox
    """

    id: int
    effective_from: datetime
    currency: str
    prices: Prices
    metered: Prices


@dataclass(frozen=True, slots=True)
class Period:
    """Within one month and at one price; whole seconds."""

    start: datetime
    end: datetime
    rate: Rate

    @property
    def seconds(self) -> int:
        return _seconds(self.start, self.end)


@dataclass(frozen=True, slots=True)
class Cost:
    vcpus: int
    memory: int
    disk: int

    @property
    def total(self) -> int:
        return self.vcpus + self.memory + self.disk


def periods(start: datetime, end: datetime, rates: Sequence[Rate]) -> Iterator[Period]:
    """:param rates: by their beginnings; the first one began before `start`"""
    at = start
    while at < end:
        rate = max((r for r in rates if r.effective_from <= at), key=lambda r: r.effective_from)
        later = [r.effective_from for r in rates if r.effective_from > at]
        until = min([end, month_end(at), *later])
        yield Period(at, until, rate)
        at = until


def cost(size: Capacity, period: Period) -> Cost:
    """Of a pool of that size for the period."""
    seconds = period.seconds
    return used(
        Capacity(size.vcpus * seconds, size.memory_mb * seconds, size.disk_mb * seconds),
        period,
        period.rate.prices,
    )


def used(amount: Capacity, period: Period, prices: Prices) -> Cost:
    """:param amount: in vCPU-seconds and MiB-seconds, within the period"""
    month = _seconds(month_start(period.start), month_end(period.start))
    return Cost(
        _rounded(amount.vcpus * prices.vcpu_hour, HOUR),
        _rounded(amount.memory_mb * prices.gib_hour, GIB * HOUR),
        _rounded(amount.disk_mb * prices.gib_month, GIB * month),
    )


def month_start(at: datetime) -> datetime:
    """Of the calendar month, in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_end(at: datetime) -> datetime:
    start = month_start(at)
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def _seconds(start: datetime, end: datetime) -> int:
    return int((end - start).total_seconds())


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
