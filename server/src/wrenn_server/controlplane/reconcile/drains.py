"""Hosts that are to become empty become so, and what somebody died over while it was moved runs on."""

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import drains, pauses
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import transitions
from wrenn_server.model.errors import WrennError

INTERVAL = 3.0
INTERRUPTED_SEC = 60.0
"""How long a sandbox that is being moved may rest before somebody else lets it run on."""

log = structlog.get_logger()


async def converge(cp: ControlPlane) -> None:
    for row in await transitions.interrupted(cp.db, INTERRUPTED_SEC):
        if cp.work.is_leased(row.id):
            continue  # we are at it
        try:
            await pauses.go_on(cp, row, None)
        except WrennError as error:
            log.warning("does not run on yet", action="move_deferred", sandbox_id=row.id, error=error.message)
    for host in await db_hosts.draining(cp.db):
        try:
            await drains.empty(cp, host)
        except WrennError as error:
            log.warning("not empty yet", action="drain_deferred", host_id=host.id, error=error.message)
