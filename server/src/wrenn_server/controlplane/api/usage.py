"""Below `/v1/sandboxes` and `/v1/capsules`, `/usage` and `/stats`: what the team used, and how much ran."""

from datetime import date
from typing import Annotated

from litestar import get
from litestar.params import FromPath, QueryParameter

from wrenn_server.controlplane import schema_usage as schema
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import usage
from wrenn_server.db.usage import DayRow

First = Annotated[
    date | None, QueryParameter(name="from", description="YYYY-MM-DD; without: 30 days with `to`")
]
Last = Annotated[date | None, QueryParameter(name="to", description="YYYY-MM-DD; without: today")]


@get("/usage", operation_id="getUsage", tags=["usage"])
async def of_team(cp: Cp, caller: Who, first: First = None, last: Last = None) -> schema.Usage:
    """What all sandboxes of the team used, day by day; at most 92 days."""
    return _usage(await usage.of_team(cp, caller.team_id, first, last))


@get("/{sandbox_id:str}/usage", operation_id="getSandboxUsage", tags=["usage"])
async def of_sandbox(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], first: First = None, last: Last = None
) -> schema.Usage:
    """What one sandbox used, day by day, also when it has ended; kept for four months."""
    return _usage(await usage.of_sandbox(cp, caller.team_id, sandbox_id, first, last))


@get("/stats", operation_id="getStats", tags=["usage"])
async def stats(
    cp: Cp,
    caller: Who,
    span: Annotated[schema.Range, QueryParameter(name="range", description="Until now")] = "1h",
) -> schema.Stats:
    """How many sandboxes run and what they reserve: now, at most in the last 30 days, and over a range."""
    found = await usage.stats(cp, caller.team_id, span)
    now, peak = found.current, found.peaks
    return schema.Stats(
        range=span,
        current=schema.CurrentStats(
            running_count=now.running, vcpus_reserved=now.vcpus, memory_mb_reserved=now.memory_mb
        ),
        peaks=schema.PeakStats(running_count=peak.running, vcpus=peak.vcpus, memory_mb=peak.memory_mb),
        series=schema.StatsSeries(
            labels=found.labels,
            running=[point.running for point in found.series],
            vcpus=[point.vcpus for point in found.series],
            memory_mb=[point.memory_mb for point in found.series],
        ),
    )


def _usage(days: list[DayRow]) -> schema.Usage:
    return schema.Usage(first=days[0].day, last=days[-1].day, points=[_point(day) for day in days])


def _point(day: DayRow) -> schema.UsagePoint:
    return schema.UsagePoint(
        date=day.day,
        cpu_minutes=day.cpu_ms / 60_000,
        ram_mb_minutes=day.memory_mb_ms / 60_000,
        disk_mb_minutes=day.disk_mb_ms / 60_000,
        egress_bytes=day.egress_bytes,
    )


ROUTES = [of_team, of_sandbox, stats]
