"""What reaches the task that owns a sandbox, and how its times with a VM end."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.sandbox.recipe import Box
from wrenn_server.hostagent.vmm.base import Vm, VmExit
from wrenn_server.model.errors import Conflict, Internal, WrennError
from wrenn_server.wire.agent import KeepAlive, Network, SandboxReport


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a sandbox may live, and what comes then."""

    ttl: float | None
    """Seconds from the moment it runs; None: for ever."""
    on_timeout: str
    pause_memory: bool = True
    """What a pause then keeps."""
    keep_alive: KeepAlive | None = None
    """What puts the end off; None: nothing."""
    extend: bool = False
    """An end that is later already stays."""

    def of(self, entry: Entry, expires_at: float | None) -> Entry:
        """The entry of a sandbox that lives by it."""
        return replace(
            entry,
            expires_at=expires_at,
            on_timeout=self.on_timeout,
            pause_memory=self.pause_memory,
            keep_alive=self.keep_alive,
            put_off=False,
        )


@dataclass(frozen=True, slots=True)
class Begin:
    """How the next VM of a sandbox comes to be."""

    entry: Entry
    """What will be true when it runs, but for what only its VM tells."""
    lease: Lease | None
    """None: `entry` has it, the sandbox ran before."""
    open: Callable[[], AbstractAsyncContextManager[Box]]


@dataclass(slots=True)
class Checkpoint:
    """What is to be saved of a running sandbox, to be found in `into` when the command is answered."""

    into: Path
    """An empty directory, with an empty `memory/` in it if that is to be saved."""
    memory: bool = True
    of: Entry | None = None
    """The sandbox as it was at that moment."""
    complaint: str | None = None
    """For a person: why its disk may not be up to date."""


@dataclass(slots=True)
class Call:
    """A command on its way through the inbox."""

    command: Command
    generation: int
    begin: Callable[[Entry], Begin] | None = None
    """Start, Resume."""
    lease: Lease | None = None
    """Timeout."""
    checkpoint: Checkpoint | None = None
    """Fork, Snapshot."""
    memory: bool = True
    """Pause: whether it is kept."""
    elsewhere: bool = False
    """Kill: another host has it, only what is here goes."""
    network: Network | None = None
    """Rewire."""
    answer: asyncio.Future[SandboxReport] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def done(self, report: SandboxReport) -> None:
        if not self.answer.done():
            self.answer.set_result(report)

    def refuse(self, error: WrennError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen, even when the asker has gone


@dataclass(frozen=True, slots=True)
class Ended:
    """The VM process is no more."""

    vm: Vm
    exit: VmExit


@dataclass(frozen=True, slots=True)
class Arrived:
    """The disk of the VM is whole, or as whole as it can be."""

    vm: Vm


@dataclass(frozen=True, slots=True)
class Expired:
    """The time to live that ended at `at` is over."""

    at: float


@dataclass(frozen=True, slots=True)
class Leave:
    """The agent stops; the VM runs on."""


class Interrupted(Exception):
    """A kill broke off what was going on."""


@dataclass(frozen=True, slots=True)
class Paused:
    """How a time with a VM ended: it is saved."""


@dataclass(frozen=True, slots=True)
class Killed:
    by: Call | None
    """None: its time was over."""


Message = Call | Ended | Arrived | Expired | Leave
End = Paused | Killed | Ended | Leave


def nobody() -> Call:
    """Stands for the killer that died with the agent."""
    return Call(Command.KILL, 0)


def killed_meanwhile() -> WrennError:
    return Conflict("the sandbox was killed meanwhile", code="killed")


def failure(command: Command, error: Exception, console: str = "") -> WrennError:
    """`start_failed`, `pause_failed`…, with the guest's last words as the hint."""
    last = console.strip().splitlines()[-1:]
    hint = f"last line of the guest's console: {last[0]}" if last else None
    failed = Internal(str(error), code=f"{command}_failed", hint=hint)
    failed.__cause__ = error
    return failed
