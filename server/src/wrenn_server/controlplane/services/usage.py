"""What a team's sandboxes used, by day, and how many ran at a time.

What was used comes from the samples of agents, each counted once (`samples.py`); what ran from the draws, which a trigger
writes with every change of a sandbox's state, so both are whole however many control planes there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import sandboxes
from wrenn_server.controlplane.services.samples import KEEP_SEC
from wrenn_server.db import usage as db_usage
from wrenn_server.db.usage import BucketRow, DayRow, Running
from wrenn_server.model.errors import InvalidRequest

DAYS_MAX = 92
DAYS_DEFAULT = 30
PEAK_DAYS = 30
RANGES = {"5m": (300, 3), "1h": (3600, 30), "6h": (21600, 180), "24h": (86400, 720), "30d": (2592000, 21600)}
"""Seconds of the range, and of each of its buckets."""
KEEP_DAYS = 124
"""Of draws, which the invoice of a month needs when it is over, and of the use of single sandboxes."""
EPOCH_KEEP_SEC = KEEP_SEC + 86400
"""Longer than a sample may be late: none can come when its numbers are forgotten."""
BATCH = 5_000
NOTHING = Running(running=0, vcpus=0, memory_mb=0)


@dataclass(frozen=True, slots=True)
class Stats:
    """
    :ivar peaks: of the last 30 days
    :ivar labels: beginnings of the buckets; `series` is the highest in each
    """

    current: Running
    peaks: Running
    labels: list[datetime]
    series: list[Running]


async def of_team(cp: ControlPlane, team_id: str, first: date | None, last: date | None) -> list[DayRow]:
    """Every day from the first to the last one (UTC), oldest first.

    :param first: None: 30 days with the last one; :param last: None: today
    :raises InvalidRequest: more than 92 days, or none
    """
    first, last = _span(first, last)
    return _filled(first, last, await db_usage.days(cp.db, team_id, first, last))


async def of_sandbox(
    cp: ControlPlane, team_id: str, sandbox_id: str, first: date | None, last: date | None
) -> list[DayRow]:
    """As `of_team`. :raises NotFound:"""
    row = await sandboxes.get(cp, team_id, sandbox_id)
    first, last = _span(first, last)
    found = await db_usage.days(cp.db, team_id, first, last, sandbox_id=row.id)
    return _filled(first, last, found)


async def stats(cp: ControlPlane, team_id: str, span: str) -> Stats:
    """:param span: one of `RANGES`"""
    length, seconds = RANGES[span]
    now = datetime.now(UTC)
    end = datetime.fromtimestamp((int(now.timestamp()) // seconds + 1) * seconds, UTC)
    start = end - timedelta(seconds=length)
    month = await _peaks(cp, team_id, now - timedelta(days=PEAK_DAYS), now)
    # A sandbox that has run since before the range counts from its first moment on.
    found = await db_usage.buckets(cp.db, team_id, start, now, seconds)
    count = length // seconds
    return Stats(
        current=await db_usage.running(cp.db, team_id, now),
        peaks=month,
        labels=[start + timedelta(seconds=n * seconds) for n in range(count)],
        series=series(found, count),
    )


def series(found: Sequence[BucketRow], count: int) -> list[Running]:
    """The highest of each bucket: of what changed in it, and of what it began with."""
    changed = {row.bucket: row for row in found}
    before, made = NOTHING, list[Running]()
    for n in range(count):
        row = changed.get(n)
        if row is None:
            made.append(before)
            continue
        made.append(
            Running(
                running=max(before.running, row.running),
                vcpus=max(before.vcpus, row.vcpus),
                memory_mb=max(before.memory_mb, row.memory_mb),
            )
        )
        before = Running(running=row.last_running, vcpus=row.last_vcpus, memory_mb=row.last_memory_mb)
    return made


async def roll_up(cp: ControlPlane) -> None:
    """What is old becomes less, a piece at a time, by one control plane at a time."""
    before = datetime.now(UTC) - timedelta(days=KEEP_DAYS)
    went = BATCH
    while went == BATCH:
        async with cp.db.transaction() as tx:
            if not await db_usage.lease(tx):
                return
            went = await db_usage.roll_up(tx, before.date(), BATCH)
            went = max(went, await db_usage.expire_draws(tx, before, BATCH))
            await db_usage.expire_epochs(tx, EPOCH_KEEP_SEC)


async def _peaks(cp: ControlPlane, team_id: str, start: datetime, end: datetime) -> Running:
    whole = int((end - start).total_seconds()) + 1
    found = await db_usage.buckets(cp.db, team_id, start, end, whole)
    return series(found, 1)[0]


def _span(first: date | None, last: date | None) -> tuple[date, date]:
    last = last or datetime.now(UTC).date()
    first = first or date.fromordinal(max(1, last.toordinal() - DAYS_DEFAULT + 1))
    if first > last:
        raise InvalidRequest("from is after to")
    if (last - first).days >= DAYS_MAX:
        raise InvalidRequest(f"at most {DAYS_MAX} days from from to to")
    return first, last


def _filled(first: date, last: date, found: Sequence[DayRow]) -> list[DayRow]:
    by_day = {row.day: row for row in found}
    days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    return [
        by_day.get(day) or DayRow(day=day, cpu_ms=0, memory_mb_ms=0, disk_mb_ms=0, egress_bytes=0)
        for day in days
    ]
