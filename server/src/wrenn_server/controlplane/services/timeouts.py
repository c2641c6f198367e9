"""When sandboxes end by themselves. Their hosts see to it, by their own clocks; here it is changed.

The host is told first, then the row: by compare-and-set on what was read before the host was told. Whoever is too late
for that tells the host again, so the last to write is the last who was heard there.
"""

from datetime import datetime

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.reconcile import decide
from wrenn_server.controlplane.services import outcomes, pauses, sandboxes
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import transitions
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Conflict, WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent


async def set_timeout(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int) -> SandboxRow:
    """Ends `timeout_sec` from now; 0: never. Of a paused sandbox: what its next resume gets.

    :raises Conflict: it neither runs nor is paused
    """
    work = _change(cp, team_id, sandbox_id, timeout_sec, extend=False)
    return await cp.work.finish(work, f"timeout {sandbox_id}")


async def extend(cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int) -> SandboxRow:
    """A running sandbox ends no sooner than `timeout_sec` from now: of many at once, the longest wins.

    :raises Conflict: it is not running
    """
    work = _change(cp, team_id, sandbox_id, timeout_sec, extend=True)
    return await cp.work.finish(work, f"extend {sandbox_id}")


async def expire(cp: ControlPlane, team_id: str, sandbox_id: str) -> None:
    """Its time is over now: it is killed or paused, as its `on_timeout` says. Answers when that is done.

    :raises Conflict: it is not running
    """
    await cp.work.finish(_expire(cp, team_id, sandbox_id), f"expire {sandbox_id}")


async def _change(
    cp: ControlPlane, team_id: str, sandbox_id: str, timeout_sec: int, *, extend: bool
) -> SandboxRow:
    while True:
        row = await sandboxes.get(cp, team_id, sandbox_id)
        after = _longer(row.timeout_sec, timeout_sec) if extend else timeout_sec
        expires: datetime | None = None
        if row.state is State.RUNNING:
            report = await _tell(cp, row, timeout_sec, after, extend=extend)
            if report is None:
                continue
            crash_point("timeout.host_answered")
            expires = decide.expires_at(report)
        elif extend or row.state is not State.PAUSED:
            raise Conflict(f"cannot change the timeout of sandbox {row.id}: it is {row.state}")
        updated = await db_sandboxes.set_timeout(cp.db, row, after, expires)
        if updated is not None:
            crash_point("timeout.row_settled")
            return updated


async def _tell(
    cp: ControlPlane, row: SandboxRow, timeout_sec: int, idle_sec: int, *, extend: bool
) -> agent.SandboxReport | None:
    """None: the sandbox does not run any more, and the row says so now.

    :param idle_sec: that it may be unused; 0: for ever"""
    message = agent.Timeout(
        generation=row.generation,
        ttl_sec=timeout_sec or None,
        extend=extend,
        on_timeout=row.on_timeout,
        pause_memory=row.pause_memory,
        keep_alive=db_sandboxes.keep_alive(row.activity, idle_sec),
    )
    host = await sandboxes.host_of(cp, row)
    try:
        return await cp.hosts.timeout(host, row.id, message)
    except WrennError as error:
        answer = await outcomes.failed(cp, row, host, error, "change the timeout of")
        if await outcomes.is_as(cp, row):
            raise answer from error
        return None


async def _expire(cp: ControlPlane, team_id: str, sandbox_id: str) -> None:
    row = await sandboxes.get(cp, team_id, sandbox_id)
    sandboxes.demand(row, State.RUNNING, "end the time of")
    if row.on_timeout == "pause":
        await pauses.pause(cp, team_id, sandbox_id, memory=row.pause_memory, reason=Reason.TIMEOUT)
        return
    with cp.work.leased([row.id]):
        killing = await transitions.begin(
            cp.db, row.id, row.generation, [State.RUNNING], State.KILLING, reason=Reason.TIMEOUT
        )
        if killing is None:
            raise outcomes.changed(row)
        crash_point("expire.row_written")
        cp.routes.forget(row.id)
        await sandboxes.end(cp, killing)


def _longer(one: int, other: int) -> int:
    """0 is never."""
    return 0 if 0 in (one, other) else max(one, other)
