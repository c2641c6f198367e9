"""Sandboxes as E2B sees them: one that has ended is not there."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.reconcile import decide
from wrenn_server.controlplane.services import sandboxes
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import Conflict, NotFound
from wrenn_server.model.sandbox import State

_ENDED = frozenset({State.KILLING, State.KILLED, State.FAILED})


async def living(cp: ControlPlane, caller: Caller, sandbox_id: str) -> SandboxRow:
    """:raises NotFound: there is none, or it has ended"""
    row = await sandboxes.get(cp, caller.team_id, sandbox_id)
    if has_ended(row):
        raise NotFound(f"sandbox {row.id} has ended", code="sandbox_not_found")
    return row


def has_ended(row: SandboxRow) -> bool:
    """Also of one whose time is over and whose host has not told of its end yet: what asks the host already finds
    nothing."""
    return row.state in _ENDED or (row.state is State.RUNNING and decide.is_over(row, datetime.now(UTC)))


@asynccontextmanager
async def of_living(cp: ControlPlane, caller: Caller, sandbox_id: str) -> AsyncGenerator[None]:
    """Around what is done to a sandbox: a refusal because of its state is another one when the state is an end.

    :raises NotFound: :raises Conflict:
    """
    try:
        yield
    except Conflict:
        await living(cp, caller, sandbox_id)
        raise
