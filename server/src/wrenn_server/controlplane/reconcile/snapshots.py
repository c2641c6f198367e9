"""Snapshots that somebody died over: what was being made was promised to nobody, so it goes like what was being
deleted. Their hosts drop what they have first, then the rows go."""

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import snapshots
from wrenn_server.db import snapshots as db_snapshots
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import WrennError

INTERVAL = 2.0
RETRY_SEC = 5.0
BATCH = 64

log = structlog.get_logger()


async def converge(cp: ControlPlane) -> None:
    for row in await db_snapshots.claim(cp.db, BATCH):
        if cp.work.is_leased(row.id):
            continue  # our own work, whose lease could not be extended in time
        with cp.work.leased([row.id]):
            crash_point("reconcile_snapshot.claimed")
            if not await db_snapshots.give_up(cp.db, row.id):
                continue
            crash_point("reconcile_snapshot.given_up")
            try:
                await snapshots.remove(cp, row)
            except WrennError as error:
                log.info(
                    "asked in vain", action="reconcile_deferred", snapshot_id=row.id, error=error.message
                )
                await db_snapshots.release(cp.db, row.id, RETRY_SEC)
