"""What the native API tells about use, as in `schema.py`."""

from datetime import date
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from wrenn_server.controlplane.schema import Time

Range = Literal["5m", "1h", "6h", "24h", "30d"]


class UsagePoint(Struct, kw_only=True):
    date: date
    cpu_minutes: Annotated[float, Meta(description="Of processor time that was used")]
    ram_mb_minutes: Annotated[float, Meta(description="Of memory that was in use, without the page cache")]
    disk_mb_minutes: float
    egress_bytes: Annotated[int, Meta(description="Sent out of the sandboxes, headers included")]


class Usage(Struct, kw_only=True):
    """Days in UTC, oldest first, both ends included."""

    first: date = field(name="from")
    last: date = field(name="to")
    points: list[UsagePoint]


class CurrentStats(Struct, kw_only=True):
    running_count: int
    vcpus_reserved: int
    memory_mb_reserved: int


class PeakStats(Struct, kw_only=True):
    """Of the last 30 days."""

    running_count: int
    vcpus: int
    memory_mb: int


class StatsSeries(Struct, kw_only=True):
    labels: Annotated[list[Time], Meta(description="Beginnings of the buckets")]
    running: Annotated[list[int], Meta(description="The highest in each bucket, as all three")]
    vcpus: list[int]
    memory_mb: list[int]


class Stats(Struct, kw_only=True):
    range: Range
    current: CurrentStats
    peaks: PeakStats
    series: StatsSeries
