"""Samples are kept for a week. One control plane at a time deletes what is older, a piece at a time, so that nothing
waits for it."""

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services.samples import KEEP_SEC
from wrenn_server.db import samples

INTERVAL = 600.0
BATCH = 10_000


async def converge(cp: ControlPlane) -> None:
    deleted = BATCH
    while deleted == BATCH:
        async with cp.db.transaction() as tx:
            deleted = await samples.expire(tx, KEEP_SEC, BATCH)
