"""Changing what a sandbox may reach. The host first, then the row, as with timeouts (`timeouts.py`)."""

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import egress, outcomes, sandboxes
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Conflict, WrennError
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent


async def update(cp: ControlPlane, team_id: str, sandbox_id: str, network: agent.Network) -> SandboxRow:
    """In place of all that was: in force when this returns, for connections that are open too; of a paused sandbox
    when it resumes.

    :raises InvalidRequest:
    :raises Conflict: it neither runs nor is paused
    :raises WrennError: its host did not do it, what was stays
    """
    checked = egress.checked(network)
    return await cp.work.finish(_update(cp, team_id, sandbox_id, checked), f"network {sandbox_id}")


async def _update(cp: ControlPlane, team_id: str, sandbox_id: str, network: agent.Network) -> SandboxRow:
    while True:
        row = await sandboxes.get(cp, team_id, sandbox_id)
        if row.state is State.RUNNING:
            if not await _tell(cp, row, network):
                continue
            crash_point("network.host_answered")
        elif row.state is not State.PAUSED:
            raise Conflict(f"cannot change the network of sandbox {row.id}: it is {row.state}")
        updated = await db_sandboxes.set_network(cp.db, row, network)
        if updated is not None:
            crash_point("network.row_settled")
            return updated


async def _tell(cp: ControlPlane, row: SandboxRow, network: agent.Network) -> bool:
    """False: the sandbox does not run any more, and the row says so now."""
    host = await sandboxes.host_of(cp, row)
    try:
        await cp.hosts.rewire(host, row.id, agent.Rewire(generation=row.generation, network=network))
    except WrennError as error:
        answer = await outcomes.failed(cp, row, host, error, "change the network of")
        if await outcomes.is_as(cp, row):
            raise answer from error
        return False
    return True
