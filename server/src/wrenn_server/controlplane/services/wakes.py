"""Getting a sandbox to run, whatever it is in the middle of: for those who connect to it, and for the traffic that
reaches a paused one.

```
 starting, resuming ── wait ──► running      as it is; a connect makes it live longer
 pausing ── wait ──► paused ── resume ──► running
```

Of many who want it, here and in other control planes, one resumes it and the others wait for that.
"""

import asyncio

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import pauses, sandboxes, timeouts
from wrenn_server.controlplane.services.routes import Location, told
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import Conflict, NotFound, TimedOut, Unavailable
from wrenn_server.model.ids import SandboxId
from wrenn_server.model.sandbox import State

WAKE_TIMEOUT_SEC = 300
"""Seconds that a sandbox lives at least after traffic woke it (as E2B has it)."""
PATIENCE_SEC = 120.0
"""How long to wait for what others are doing with the sandbox."""

_UNDER_WAY = frozenset({State.STARTING, State.PAUSING, State.RESUMING})


async def connect(
    cp: ControlPlane, team_id: str, sandbox_id: str, *, timeout_sec: int, memory: bool = True
) -> tuple[SandboxRow, bool]:
    """The running sandbox, and whether it was resumed for that. One that runs lives on for at least `timeout_sec`.

    :param memory: False: a paused one boots from its disk even if memory was saved
    :raises NotFound: also when it has ended
    :raises Conflict: it is being killed
    :raises Unavailable: its host is away, or has no room now
    :raises TimedOut: others did not finish what they were doing with it
    """
    while True:
        row = await settled(cp, team_id, sandbox_id)
        try:
            if row.state is State.RUNNING:
                return await timeouts.extend(cp, team_id, sandbox_id, timeout_sec), False
            return await pauses.resume(cp, team_id, sandbox_id, timeout_sec, memory=memory), True
        except Conflict:
            continue  # others were faster with something: look again


async def wake(cp: ControlPlane, sandbox_id: SandboxId, location: Location) -> Location:
    """Where the sandbox is once it runs, for traffic to it. Whoever stops waiting does not stop the resume, and when
    that fails, the next request tries again.

    :param location: not running, with `auto_resume`
    :raises WrennError: as `connect`
    """
    waking = cp.waking.get(sandbox_id)
    if waking is None:
        waking = asyncio.create_task(_wake(cp, location.team_id, sandbox_id), name=f"wake {sandbox_id}")
        cp.waking[sandbox_id] = waking
        waking.add_done_callback(lambda done: _forget(cp, sandbox_id, done))
    await asyncio.shield(waking)
    return await cp.routes.locate(sandbox_id)


async def close(cp: ControlPlane) -> None:
    """Nobody waits any more. A resume that has begun goes on."""
    waking = list(cp.waking.values())
    for task in waking:
        task.cancel()
    if waking:
        await asyncio.wait(waking)


async def settled(cp: ControlPlane, team_id: str, sandbox_id: str) -> SandboxRow:
    """The sandbox, running or paused, once nobody starts, pauses or resumes it any more. Raises as `connect`."""
    row = await _settle(cp, team_id, sandbox_id)
    match row.state:
        case State.RUNNING | State.PAUSED:
            return row
        case State.KILLING:
            raise Conflict(f"sandbox {row.id} is being killed")
        case State.LOST:
            raise Unavailable(f"the host of sandbox {row.id} is not reachable")
        case _:
            raise NotFound(f"sandbox {row.id} is {row.state}", code="sandbox_not_found")


async def _settle(cp: ControlPlane, team_id: str, sandbox_id: str) -> SandboxRow:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with cp.routes.watching(sandbox_id) as changed:
        while True:
            changed.clear()
            row = await sandboxes.get(cp, team_id, sandbox_id)
            if row.state not in _UNDER_WAY:
                return row
            left = began + PATIENCE_SEC - loop.time()
            if left <= 0:
                raise TimedOut(
                    f"sandbox {row.id} is {row.state} for {PATIENCE_SEC:g} s already", retryable=True
                )
            await told(changed, left)


async def _wake(cp: ControlPlane, team_id: str, sandbox_id: str) -> None:
    while True:
        row = await settled(cp, team_id, sandbox_id)
        if row.state is State.RUNNING:
            return
        timeout_sec = row.timeout_sec and max(row.timeout_sec, WAKE_TIMEOUT_SEC)  # 0 stays: never
        try:
            await pauses.resume(cp, team_id, sandbox_id, timeout_sec)
        except Conflict:
            continue  # others were faster with something: look again
        return


def _forget(cp: ControlPlane, sandbox_id: str, done: "asyncio.Task[None]") -> None:
    del cp.waking[sandbox_id]
    if not done.cancelled():
        done.exception()  # seen: those who wait were told
