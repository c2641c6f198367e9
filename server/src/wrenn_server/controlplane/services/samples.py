"""Samples of what sandboxes use: taken in from hosts, given out by range."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import sandboxes
from wrenn_server.db import samples as db_samples
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.samples import SampleRow
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire.agent import Sample

KEEP_SEC = 7 * 24 * 3600.0
BATCH_MAX = 10_000
POINTS_MAX = 1000
"""Samples in an answer."""
_AHEAD_SEC = 300.0
"""How far a host's clock may be ahead of ours."""
_CPUS_MAX = 4096

log = structlog.get_logger()


async def take(cp: ControlPlane, host: HostRow, samples: Sequence[Sample]) -> None:
    """Writes what a host measured. Of other hosts' sandboxes nothing is taken, and no number that cannot be: one bad
    sample must not cost the others, nor come again and again.

    :raises InvalidRequest: more than fit into one batch
    """
    if len(samples) > BATCH_MAX:
        raise InvalidRequest(f"{len(samples)} samples: at most {BATCH_MAX} go into one call")
    now = time.time()
    good = [sample for sample in samples if plausible(sample, now)]
    if len(good) < len(samples):
        log.warning(
            "samples that cannot be",
            action="samples_dropped",
            host_id=host.id,
            count=len(samples) - len(good),
        )
    if good:
        await db_samples.insert(cp.db, host.id, good)


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
    )
