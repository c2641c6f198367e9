"""Back to a snapshot that was taken of the same sandbox: same id, same URL, the memory and disk of then.

```
 running ── pause ──► paused (reason rollback) ── resume from the snapshot ──► running, generation + 1
                        └── that failed: resume from the pause ──► running as before, generation + 1
```
What it had done until now is kept on its host until it runs from the snapshot. Who dies on the way leaves a sandbox that
is paused with all of that, and `reconcile/drains.py` lets it run on.
"""

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import pauses, sandboxes, templates
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.db.snapshots import SnapshotRow
from wrenn_server.model.errors import Conflict, InvalidRequest, WrennError
from wrenn_server.model.sandbox import Reason, State

log = structlog.get_logger()


async def rollback(cp: ControlPlane, team_id: str, sandbox_id: str, snapshot: str) -> SandboxRow:
    """A running sandbox goes back to the snapshot, and a paused one resumes from it. What it did since is gone when this
    answers; when it fails, nothing is.

    :param snapshot: its id, `name` or `name:tag`
    :raises NotFound: there is no such snapshot
    :raises InvalidRequest: `snapshot_of_another`
    :raises Conflict: it neither runs nor is paused, or its host has no way to the snapshot
    """
    return await cp.work.finish(_rollback(cp, team_id, sandbox_id, snapshot), f"rollback {sandbox_id}")


async def _rollback(cp: ControlPlane, team_id: str, sandbox_id: str, text: str) -> SandboxRow:
    row = await sandboxes.get(cp, team_id, sandbox_id)
    found = (await templates.resolve(cp, team_id, text)).snapshot
    if found is None or found.sandbox_id != row.id:
        raise InvalidRequest(
            f"{text[:100]!r} is not a snapshot of sandbox {row.id}",
            code="snapshot_of_another",
            hint="a sandbox goes back to its own snapshots alone; create one to start from those of others",
        )
    if row.state is State.PAUSED:
        _demand_way(row, found)
        return await pauses.go_on(cp, row, None, snapshot_id=found.id)
    sandboxes.demand(row, State.RUNNING, "roll back")
    _demand_way(row, found)
    with cp.work.leased([row.id]):
        paused = await pauses.pause(cp, team_id, row.id, reason=Reason.ROLLBACK)
        left = pauses.left_of(row)
        try:
            return await pauses.go_on(cp, paused, left, snapshot_id=found.id)
        except WrennError:
            await _run_on(cp, row, left)
            raise


def _demand_way(row: SandboxRow, snapshot: SnapshotRow) -> None:
    if snapshot.host_id != row.host_id and snapshot.stored_in is None:
        raise Conflict(
            f"snapshot {snapshot.id} is on another host than sandbox {row.id}, and in no object store",
            code="snapshot_elsewhere",
        )


async def _run_on(cp: ControlPlane, row: SandboxRow, left: float | None) -> None:
    now = await sandboxes.get(cp, row.team_id, row.id)
    if now.state is not State.PAUSED:
        return  # somebody else was at it
    try:
        await pauses.go_on(cp, now, left)
    except WrennError as error:
        log.warning("stays paused", action="rollback_failed", sandbox_id=row.id, error=error.message)
