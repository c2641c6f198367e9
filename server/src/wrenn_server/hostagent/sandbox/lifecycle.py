"""What a command may do to a sandbox, decided without doing it.

```
                 Start                       Pause                       Resume (generation + n)
  (nothing) ───────────► starting ─► running ──────► pausing ─► paused ─────────► resuming ─► running
                            │          │  ▲             │         │  ▲                │
                            │          │  └── failed ───┘         │  └─── failed ─────┘
                            │          │  Fork, Snapshot, Timeout, Rewire: stays running
                            │          │  Expired: as Kill or as Pause (`on_timeout`)
                            ▼          ▼ the VM ended by itself
                          failed ◄─────┘     keeps its reason, holds nothing
  any state ── Kill ──► killing ──► (nothing), or killed when its time was over, until somebody acknowledges by Kill
```

A command carries the generation that its sender knows. An older one than ours comes from the past and is refused;
the same command with the same generation again is answered with what is already true. `Start` and `Resume` bring the
generation that the sandbox gets; all others must name the one that it has. `Kill` may know more than we do: a newer
start that never arrived here is ended together with what we have.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from wrenn_server.model.errors import Conflict, NotFound, WrennError
from wrenn_server.model.sandbox import State


class Command(StrEnum):
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    FORK = "fork"
    SNAPSHOT = "snapshot"
    TIMEOUT = "timeout"
    REWIRE = "rewire"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Go:
    """Carry it out."""


@dataclass(frozen=True, slots=True)
class Done:
    """It has been carried out before; answer with what is."""


@dataclass(frozen=True, slots=True)
class Refuse:
    error: WrennError


Verdict = Go | Done | Refuse


def decide(held: tuple[State, int] | None, command: Command, generation: int) -> Verdict:
    """What to do with `command` of `generation` when the host holds `(state, generation)`, or nothing.

    Commands to one sandbox are decided one after the other, so `held` is never in the middle of something.
    """
    if held is None:
        match command:
            case Command.START:
                return Go()
            case Command.KILL:
                return Done()
            case _:
                return Refuse(NotFound("this host has no such sandbox", code="sandbox_not_found"))
    state, ours = held
    if generation < ours:
        return Refuse(
            Conflict(
                f"{command} of generation {generation} came too late: the sandbox is at generation {ours}",
                code="stale_generation",
            )
        )
    match command:
        case Command.KILL:
            return Go()
        case Command.START:
            return _start(state, ours, generation)
        case Command.RESUME:
            return _resume(state, ours, generation)
        case _ if generation > ours:
            return Refuse(
                Conflict(
                    f"{command} of generation {generation}: this host is still at generation {ours}",
                    code="unknown_generation",
                )
            )
        case Command.PAUSE if state is State.PAUSED:
            return Done()
        case _:
            return Go() if state is State.RUNNING else _wrong_state(command, state)


def _start(state: State, ours: int, generation: int) -> Verdict:
    return Done() if generation == ours else _wrong_state(Command.START, state)


def _resume(state: State, ours: int, generation: int) -> Verdict:
    if generation == ours and not state.is_final:
        return Done()
    return Go() if state is State.PAUSED else _wrong_state(Command.RESUME, state)


def _wrong_state(command: Command, state: State) -> Refuse:
    return Refuse(Conflict(f"cannot {command} a sandbox that is {state}", code="invalid_state"))


def expiry(ttl: float | None, now: float, before: float | None, *, extend: bool) -> float | None:
    """When a sandbox ends whose time to live is set anew; None: never.

    :param before: when it would have ended
    :param extend: an end that is later already stays
    """
    after = None if ttl is None else now + ttl
    if extend and after is not None:
        return None if before is None else max(before, after)
    return after


def put_off(idle: float, last: float | None, now: float) -> float | None:
    """When a sandbox ends whose time is over now and that was last used at `last`; None: now.

    :param idle: seconds that it may be unused"""
    after = None if last is None else min(last, now) + idle
    return after if after is not None and after > now else None


class Recovery(Enum):
    """What a new agent process does with a sandbox that it finds in the journal."""

    ADOPT = (
        "its VM should run: take it over and let its processors run; it failed when there is no VM any more"
    )
    REST = "it is paused; a VM that is left of it ends"
    LOSE = "it cannot be saved; it failed, and what is left of it ends"
    KILL = "its end had begun; finish it"
    KEEP = "it had ended before; only the reason is kept"


def recover(state: State, *, alive: bool, saved: bool) -> Recovery:
    """After a crash of the agent in the middle of anything.

    :param state: the intent last written to the journal
    :param alive: the journal knows a VM that may still run
    :param saved: a complete snapshot of the present generation exists
    """
    match state:
        case State.RUNNING:
            return Recovery.ADOPT if alive else Recovery.LOSE
        case State.PAUSING:
            # A complete snapshot wins over the living VM: whoever asked may have been told that it is paused.
            if saved:
                return Recovery.REST
            return Recovery.ADOPT if alive else Recovery.LOSE
        case State.PAUSED | State.RESUMING:
            # Nobody was told that a resume succeeded before `running` was in the journal. An incomplete snapshot is
            # no reason to forget the sandbox: its file system may just not be mounted yet. The resume will say so.
            return Recovery.REST
        case State.KILLING:
            return Recovery.KILL
        case State.FAILED | State.KILLED:
            return Recovery.KEEP
        case State.STARTING | State.LOST:
            return Recovery.LOSE
