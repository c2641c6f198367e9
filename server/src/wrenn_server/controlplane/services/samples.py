"""Samples of what sandboxes use: taken in from hosts, given out by range."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import sandboxes
from wrenn_server.db import samples as db_samples
from wrenn_server.db import usage as db_usage
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.samples import SampleRow
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire.agent import SAMPLE_SECONDS_MAX, SAMPLES_MAX, Sample, Samples

KEEP_SEC = 7 * 24 * 3600.0
POINTS_MAX = 1000
"""Samples in an answer."""
_AHEAD_SEC = 300.0
"""How far a host's clock may be ahead of ours."""
_CPUS_MAX = 4096
_EGRESS_MAX = 2**43
"""Bytes in that time: more than 100 Gbit/s."""

log = structlog.get_logger()


async def take(cp: ControlPlane, host: HostRow, batch: Samples) -> None:
    """Writes what a host measured, and counts each number once, however often and late and to whomever it is told. Of
    other hosts' sandboxes nothing is taken, and no figure that cannot be: one bad sample must not cost the others, nor
    come again and again.

    :raises InvalidRequest: more than fit into one batch, or numbers that are none
    """
    if len(batch.samples) > SAMPLES_MAX:
        raise InvalidRequest(f"{len(batch.samples)} samples: at most {SAMPLES_MAX} go into one call")
    if not (0 <= batch.first < 2**62 and math.isfinite(batch.epoch)):
        raise InvalidRequest("first and epoch must be numbers of samples and of an agent's start")
    now = time.time()
    good = {n: sample for n, sample in enumerate(batch.samples, batch.first) if plausible(sample, now)}
    if len(good) < len(batch.samples):
        log.warning(
            "samples that cannot be",
            action="samples_dropped",
            host_id=host.id,
            count=len(batch.samples) - len(good),
        )
    if not good:
        return
    async with cp.db.transaction() as tx:
        if batch.first:
            new = await db_usage.untaken(tx, host.id, batch.epoch, list(good))
            await db_usage.count(tx, host.id, [sample for n, sample in good.items() if n in new])
            await db_usage.take(tx, host.id, batch.epoch, batch.first, len(batch.samples))
        await db_samples.insert(tx, host.id, list(good.values()))


async def between(
    cp: ControlPlane,
    team_id: str,
    sandbox_id: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    limit: int = POINTS_MAX,
) -> list[SampleRow]:
    """Oldest first, also of a sandbox that has ended. Of more than `limit` as many, evenly spread.

    :param start: None: since its creation; :param end: None: until now
    :raises NotFound: no such sandbox of this team; :raises InvalidRequest: the end is before the start
    """
    row = await sandboxes.get(cp, team_id, sandbox_id)
    start, end = start or row.created_at, end or datetime.now(UTC)
    if end < start:
        raise InvalidRequest("the end of the range is before its start")
    return await db_samples.between(cp.db, row.id, start, end, limit=limit)


async def newest(cp: ControlPlane, team_id: str, sandbox_ids: Sequence[str]) -> list[SampleRow]:
    """The newest of each; nothing of sandboxes that have none, or that are not the team's."""
    return await db_samples.newest(cp.db, team_id, sandbox_ids)


def plausible(sample: Sample, now: float) -> bool:
    sizes = (sample.mem_used, sample.mem_total, sample.mem_cache, sample.disk_used, sample.disk_total)
    return (
        math.isfinite(sample.at)
        and now - KEEP_SEC <= sample.at <= now + _AHEAD_SEC
        and 0 < sample.cpu_count <= _CPUS_MAX
        and 0 <= sample.cpu_used_pct <= 100  # also false for NaN
        and all(0 <= size < 2**63 for size in sizes)
        and 0 <= sample.seconds <= SAMPLE_SECONDS_MAX
        and 0 <= sample.egress_bytes < _EGRESS_MAX
    )
