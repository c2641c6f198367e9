"""Resuming paused sandboxes for the traffic that reaches them: one resume each, however many requests wait for it."""

import asyncio

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import pauses
from wrenn_server.controlplane.services.routes import Location
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.ids import SandboxId

TIMEOUT_MIN = 300
"""Seconds that a sandbox lives at least after it was woken by traffic (as E2B has it)."""


async def wake(cp: ControlPlane, sandbox_id: SandboxId, location: Location) -> Location:
    """Where the sandbox is, once it runs. Whoever stops waiting does not stop the resume.

    :param location: paused, with `auto_resume`
    :raises WrennError: it could not be resumed
    """
    waking = cp.waking.get(sandbox_id)
    if waking is None:
        work = pauses.resume(cp, location.team_id, sandbox_id, None)
        waking = asyncio.create_task(work, name=f"wake {sandbox_id}")
        cp.waking[sandbox_id] = waking
        waking.add_done_callback(lambda done: _forget(cp, sandbox_id, done))
    await asyncio.shield(waking)
    return await cp.routes.locate(sandbox_id)


def _forget(cp: ControlPlane, sandbox_id: str, done: "asyncio.Task[SandboxRow]") -> None:
    del cp.waking[sandbox_id]
    if not done.cancelled():
        done.exception()  # seen: those who wait were told
