"""What pools cost: exact to the second and to the millionth."""

import itertools
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.model.pool import Capacity
from wrenn_server.model.pricing import Period, Prices, Rate, cost, month_end, month_start, periods

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PRICES = Prices(40_000, 10_000, 200_000)


def rate(id: int = 1, start: datetime = EPOCH, prices: Prices = PRICES) -> Rate:
    return Rate(id, start, "USD", prices, prices)


def test_a_whole_month() -> None:
    start = datetime(2026, 2, 1, tzinfo=UTC)
    found = cost(Capacity(2, 4096, 10 * 1024), Period(start, month_end(start), rate()))
    assert (found.vcpus, found.memory, found.disk) == (
        2 * 28 * 24 * 40_000,
        4 * 28 * 24 * 10_000,
        10 * 200_000,
    )
    assert found.total == found.vcpus + found.memory + found.disk


def test_one_second() -> None:
    start = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    found = cost(Capacity(1, 1024, 1024), Period(start, month_end(start), rate()))
    assert (found.vcpus, found.memory, found.disk) == (11, 3, 0)  # 11.1, 2.8, 0.08


def test_months_in_utc() -> None:
    at = datetime.fromisoformat("2026-01-01T00:30:00+01:00")
    assert month_start(at) == datetime(2025, 12, 1, tzinfo=UTC)
    assert month_end(at) == datetime(2026, 1, 1, tzinfo=UTC)
    assert month_end(datetime(2024, 2, 29, tzinfo=UTC)) == datetime(2024, 3, 1, tzinfo=UTC)


def test_time_is_cut_where_months_and_prices_begin() -> None:
    change = datetime(2026, 3, 10, 12, 0, 1, tzinfo=UTC)
    start, end = datetime(2026, 2, 27, tzinfo=UTC), datetime(2026, 4, 1, 0, 0, 1, tzinfo=UTC)
    found = list(periods(start, end, [rate(1), rate(2, change), rate(3, end)]))
    cuts = [start, datetime(2026, 3, 1, tzinfo=UTC), change, datetime(2026, 4, 1, tzinfo=UTC), end]
    assert [(p.start, p.end) for p in found] == list(itertools.pairwise(cuts))
    assert [p.rate.id for p in found] == [1, 1, 2, 2]
    assert list(periods(end, end, [rate()])) == []


moments = st.integers(0, 3 * 365 * 86400).map(
    lambda s: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=s)
)


@given(
    moments, moments, st.lists(moments, max_size=5, unique=True), st.integers(0, 64), st.integers(0, 10**6)
)
def test_nothing_is_left_out_and_nothing_counted_twice(
    one: datetime, other: datetime, changes: list[datetime], vcpus: int, mib: int
) -> None:
    start, end = min(one, other), max(one, other)
    rates = [rate(), *(rate(n, at, Prices(n, n, n)) for n, at in enumerate(sorted(changes), 2))]
    found = list(periods(start, end, rates))
    assert sum((p.end - p.start for p in found), timedelta()) == end - start
    for period in found:
        assert month_start(period.start) == month_start(period.end - timedelta(seconds=1))
        prices = period.rate.prices
        month = (month_end(period.start) - month_start(period.start)).total_seconds()
        exact = (
            Fraction(vcpus * prices.vcpu_hour * period.seconds, 3600),
            Fraction(mib * prices.gib_hour * period.seconds, 1024 * 3600),
            Fraction(mib * prices.gib_month * period.seconds, 1024 * int(month)),
        )
        charged = cost(Capacity(vcpus, mib, mib), period)
        for amount, wanted in zip((charged.vcpus, charged.memory, charged.disk), exact, strict=True):
            assert abs(amount - wanted) <= Fraction(1, 2)
