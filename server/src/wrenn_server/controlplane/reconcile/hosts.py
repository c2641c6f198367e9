"""Hosts that have fallen silent are unreachable, and what is on them is lost, until a heartbeat says otherwise."""

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import hosts, transitions

SILENCE_SEC = 90.0
"""Three heartbeats."""
INTERVAL = 5.0

log = structlog.get_logger()


async def converge(cp: ControlPlane) -> None:
    for host_id in await hosts.expire(cp.db, SILENCE_SEC):
        log.warning("host is unreachable", action="host_unreachable", host_id=host_id)
    # Of all unreachable hosts, not only of those just found: we may have died between the two statements.
    await transitions.lose(cp.db)
