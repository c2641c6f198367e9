"""The decisions, as tables."""

import pytest

from wrenn_server.hostagent.sandbox.lifecycle import (
    Command,
    Done,
    Go,
    Recovery,
    Refuse,
    decide,
    expiry,
    recover,
)
from wrenn_server.model.sandbox import State

S, C = State, Command
DONE, GO = "done", "go"


def verdict(held: tuple[State, int] | None, command: Command, generation: int) -> str:
    match decide(held, command, generation):
        case Go():
            return GO
        case Done():
            return DONE
        case Refuse(error):
            return error.code


@pytest.mark.parametrize(
    ("held", "command", "generation", "expected"),
    [
        (None, C.START, 1, GO),
        (None, C.KILL, 1, DONE),
        (None, C.PAUSE, 1, "sandbox_not_found"),
        (None, C.RESUME, 2, "sandbox_not_found"),
        ((S.RUNNING, 2), C.START, 2, DONE),
        ((S.RUNNING, 2), C.START, 3, "invalid_state"),
        ((S.FAILED, 1), C.START, 1, DONE),
        ((S.RUNNING, 2), C.PAUSE, 2, GO),
        ((S.PAUSED, 2), C.PAUSE, 2, DONE),
        ((S.FAILED, 2), C.PAUSE, 2, "invalid_state"),
        ((S.RUNNING, 2), C.PAUSE, 3, "unknown_generation"),
        ((S.PAUSED, 2), C.RESUME, 3, GO),
        ((S.PAUSED, 2), C.RESUME, 7, GO),
        ((S.RUNNING, 3), C.RESUME, 3, DONE),
        ((S.RUNNING, 3), C.RESUME, 4, "invalid_state"),
        ((S.FAILED, 3), C.RESUME, 3, "invalid_state"),
        ((S.RUNNING, 2), C.FORK, 2, GO),
        ((S.PAUSED, 2), C.FORK, 2, "invalid_state"),
        ((S.RUNNING, 2), C.TIMEOUT, 2, GO),
        ((S.PAUSED, 2), C.TIMEOUT, 2, "invalid_state"),
        ((S.RUNNING, 2), C.KILL, 5, GO),
    ],
)
def test_what_a_command_may_do(
    held: tuple[State, int] | None, command: Command, generation: int, expected: str
) -> None:
    assert verdict(held, command, generation) == expected


@pytest.mark.parametrize("command", list(Command))
@pytest.mark.parametrize("state", list(State))
def test_the_past_changes_nothing(command: Command, state: State) -> None:
    assert verdict((state, 5), command, 4) == "stale_generation"


@pytest.mark.parametrize("state", list(State))
def test_a_kill_is_legal_in_every_state(state: State) -> None:
    assert verdict((state, 5), Command.KILL, 5) == GO


@pytest.mark.parametrize(
    ("state", "alive", "saved", "expected"),
    [
        (S.STARTING, False, False, Recovery.LOSE),
        (S.RUNNING, True, False, Recovery.ADOPT),
        (S.RUNNING, False, False, Recovery.LOSE),
        (S.PAUSING, True, False, Recovery.ADOPT),
        (S.PAUSING, True, True, Recovery.REST),
        (S.PAUSING, False, True, Recovery.REST),
        (S.PAUSING, False, False, Recovery.LOSE),
        (S.PAUSED, False, True, Recovery.REST),
        (S.PAUSED, False, False, Recovery.REST),
        (S.RESUMING, False, False, Recovery.REST),
        (S.KILLING, True, True, Recovery.KILL),
        (S.FAILED, False, False, Recovery.KEEP),
        (S.KILLED, False, False, Recovery.KEEP),
    ],
)
def test_what_comes_after_a_crash(state: State, alive: bool, saved: bool, expected: Recovery) -> None:
    assert recover(state, alive=alive, saved=saved) is expected


@pytest.mark.parametrize(
    ("ttl", "before", "extend", "expected"),
    [
        (60.0, None, False, 160.0),
        (60.0, 500.0, False, 160.0),
        (None, 500.0, False, None),
        (0.0, 500.0, False, 100.0),
        (60.0, 130.0, True, 160.0),
        (60.0, 500.0, True, 500.0),
        (60.0, None, True, None),
        (None, 500.0, True, None),
    ],
)
def test_when_it_ends(ttl: float | None, before: float | None, extend: bool, expected: float | None) -> None:
    assert expiry(ttl, 100.0, before, extend=extend) == expected
