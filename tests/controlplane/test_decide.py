"""What is believed of a host's report: the whole table of row × report, and that no decision breaks the state machine."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from wrenn_server.controlplane.reconcile.decide import (
    Decision,
    Nothing,
    Remove,
    Settle,
    Wait,
    absent,
    elsewhere,
    from_report,
)
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.sandbox import Reason, State, may
from wrenn_server.wire.agent import Network, SandboxReport

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(
    state: State,
    generation: int = 2,
    *,
    expires_at: datetime | None = None,
    on_timeout: str = "kill",
    saved: int | None = None,
    stored: int | None = None,
) -> SandboxRow:
    return SandboxRow(
        id="sb" + "a" * 20, team_id="team", template_id="tpl", template="minimal", host_id="host",
        generation=generation, state=state, vcpus=1, memory_mb=512, disk_mb=512, timeout_sec=0,
        on_timeout=on_timeout, pause_memory=True, auto_resume=False, saved_memory=None, metadata={},
        network=Network(), traffic_token=None, mask_host=None, image="minimal", snapshot_id=None,
        access_token="t", envd_version="", reason=None, message=None, console=None, created_at=NOW,
        activity=[], started_at=None, last_active_at=None, updated_at=NOW, expires_at=expires_at, check_after=None,
        saved_generation=saved, stored_generation=stored, stored_machine="m" if stored else None,
        stored_in="s" if stored else None,
    )  # fmt: skip


def report(state: State, generation: int = 2, reason: Reason | None = None) -> SandboxReport:
    return SandboxReport(
        id="sb" + "a" * 20,
        generation=generation,
        state=state,
        reason=reason,
        vcpus=1,
        memory_mb=512,
        disk_mb=512,
    )


def outcome(decision: Decision) -> State | str:
    return decision.state if isinstance(decision, Settle) else type(decision).__name__


@pytest.mark.parametrize(
    ("before", "reported", "generation", "after"),
    [
        # the host's own acts
        (State.RUNNING, State.PAUSED, 2, State.PAUSED),
        (State.RUNNING, State.PAUSING, 2, State.PAUSING),
        (State.RUNNING, State.KILLING, 2, State.KILLING),
        (State.RUNNING, State.KILLED, 2, State.KILLED),
        (State.RUNNING, State.FAILED, 2, State.FAILED),
        (State.PAUSED, State.FAILED, 2, State.FAILED),
        # what was asked for and never heard about
        (State.STARTING, State.RUNNING, 2, State.RUNNING),
        (State.STARTING, State.FAILED, 2, State.FAILED),
        (State.STARTING, State.STARTING, 2, "Wait"),
        (State.PAUSING, State.PAUSED, 2, State.PAUSED),
        (State.PAUSING, State.RUNNING, 2, State.RUNNING),
        (State.PAUSING, State.PAUSING, 2, "Wait"),
        (State.PAUSING, State.KILLED, 2, State.KILLED),
        (State.PAUSING, State.FAILED, 2, State.FAILED),
        (State.RESUMING, State.RUNNING, 2, State.RUNNING),
        (State.RESUMING, State.PAUSED, 1, State.PAUSED),
        (State.RESUMING, State.RESUMING, 1, "Wait"),
        (State.RESUMING, State.FAILED, 1, State.FAILED),
        # a host that is back
        (State.LOST, State.RUNNING, 2, State.RUNNING),
        (State.LOST, State.PAUSED, 2, State.PAUSED),
        (State.LOST, State.PAUSED, 1, State.PAUSED),
        (State.LOST, State.FAILED, 2, State.FAILED),
        # agreement, and reports of before
        (State.RUNNING, State.RUNNING, 2, "Nothing"),
        (State.PAUSED, State.PAUSED, 2, "Nothing"),
        (State.PAUSED, State.PAUSED, 1, "Nothing"),
        (State.PAUSED, State.RUNNING, 2, "Nothing"),
        (State.RUNNING, State.PAUSED, 1, "Nothing"),
        (State.RUNNING, State.FAILED, 1, "Nothing"),
        (State.RUNNING, State.PAUSING, 1, "Nothing"),
        (State.RUNNING, State.RUNNING, 3, "Nothing"),
        # what has ended for us
        (State.KILLING, State.RUNNING, 2, "Remove"),
        (State.KILLED, State.RUNNING, 2, "Remove"),
        (State.FAILED, State.PAUSED, 1, "Remove"),
        (State.FAILED, State.FAILED, 2, "Remove"),
    ],
)
def test_reports(before: State, reported: State, generation: int, after: State | str) -> None:
    assert outcome(from_report(row(before), report(reported, generation))) == after


def test_no_decision_breaks_the_state_machine() -> None:
    for before, reported, generation in itertools.product(State, State, (1, 2, 3)):
        decision = from_report(row(before), report(reported, generation))
        if isinstance(decision, Settle):
            assert may(before, decision.state), (before, reported, generation, decision)
        if before.is_final:
            assert isinstance(decision, Remove)
        if before is State.RUNNING and generation != 2:
            assert isinstance(decision, Nothing)
    for before in State:
        decision = absent(row(before), NOW)
        if isinstance(decision, Settle):
            assert may(before, decision.state), before
        assert not isinstance(decision, Wait)


def test_removal_names_the_newest_generation_that_either_side_knows() -> None:
    assert from_report(row(State.KILLED), report(State.RUNNING, 7)) == Remove(7)
    assert from_report(row(State.KILLED), report(State.PAUSED, 1)) == Remove(2)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (row(State.KILLING), Settle(State.KILLED, Reason.USER)),
        (row(State.KILLED), Nothing()),
        (row(State.STARTING), Settle(State.FAILED, Reason.START_FAILED, "the start never reached its host")),
        (row(State.RUNNING, expires_at=NOW - timedelta(seconds=1)), Settle(State.KILLED, Reason.TIMEOUT)),
        (
            row(State.RUNNING, expires_at=NOW - timedelta(seconds=1), on_timeout="pause"),
            Settle(State.FAILED, Reason.HOST_LOST, "its host does not know it any more"),
        ),
        (
            row(State.PAUSED),
            Settle(State.FAILED, Reason.HOST_LOST, "its host does not know it any more"),
        ),
    ],
)
def test_a_host_that_has_no_such_sandbox(subject: SandboxRow, expected: Decision) -> None:
    assert absent(subject, NOW) == expected


@pytest.mark.parametrize("before", [State.RUNNING, State.PAUSING, State.RESUMING, State.LOST])
@pytest.mark.parametrize("saved", [True, False])
def test_what_a_pause_kept_is_the_hosts_word(before: State, saved: bool) -> None:
    for generation in (1, 2):
        told = report(State.PAUSED, generation)
        told.saved_memory = saved
        decision = from_report(row(before), told)
        if isinstance(decision, Settle):
            assert (decision.state, decision.saved_memory) == (State.PAUSED, saved)


def test_the_hosts_reason_is_kept() -> None:
    decision = from_report(row(State.RUNNING), report(State.FAILED, reason=Reason.DISK_FULL))
    assert isinstance(decision, Settle)
    assert decision.reason is Reason.DISK_FULL


@pytest.mark.parametrize(
    ("state", "saved", "stored", "after"),
    [
        (State.PAUSED, 2, 2, "Nothing"),
        (State.PAUSED, 2, 1, State.FAILED),
        (State.RESUMING, 2, 2, State.PAUSED),
        (State.RESUMING, 2, None, State.FAILED),
        (State.LOST, 2, 2, State.PAUSED),
        (State.LOST, None, 1, State.FAILED),
        (State.RUNNING, None, 1, State.FAILED),
    ],
)
def test_what_rests_in_the_object_store_needs_no_host(
    state: State, saved: int, stored: int, after: State | str
) -> None:
    assert outcome(absent(row(state, 3, saved=saved, stored=stored), NOW)) == after


@pytest.mark.parametrize(
    ("state", "saved", "reported", "removed"),
    [
        (State.RUNNING, None, 2, True),
        (State.PAUSED, 3, 2, True),
        (State.KILLED, None, 3, True),
        (State.KILLING, None, 2, True),
        # The other host may have nothing of it yet, or this one is the newer.
        (State.RESUMING, 2, 2, False),
        (State.PAUSED, 2, 2, False),
        (State.LOST, 2, 2, False),
        (State.RUNNING, None, 3, False),
        (State.RUNNING, None, 4, False),
    ],
)
def test_a_copy_on_another_host_goes_when_it_is_old_for_certain(
    state: State, saved: int | None, reported: int, removed: bool
) -> None:
    decision = elsewhere(row(state, 3, saved=saved), report(State.PAUSED, reported))
    assert decision == (Remove(reported) if removed else Nothing())


def test_a_spare_copy_goes_when_the_store_has_it_and_nobody_works_on_it() -> None:
    spare, rests = report(State.PAUSED, 2), row(State.PAUSED, 2, saved=2, stored=2)
    assert elsewhere(rests, spare) == Remove(2)
    assert elsewhere(replace(rests, check_after=NOW), spare) == Nothing()
    assert elsewhere(replace(rests, stored_generation=None), spare) == Nothing()
    assert elsewhere(replace(rests, generation=3), spare) == Nothing(), (
        "a resume there may have fetched nothing"
    )
    assert elsewhere(rests, report(State.RUNNING, 2)) == Nothing()


@pytest.mark.parametrize("reason", [Reason.DRAIN, Reason.ROLLBACK])
def test_a_pause_that_somebody_died_over_is_still_for_what_it_was_for(reason: Reason) -> None:
    pausing = replace(row(State.PAUSING), reason=reason.value)
    decision = from_report(pausing, report(State.PAUSED))
    assert isinstance(decision, Settle)
    assert (decision.state, decision.reason) == (State.PAUSED, reason)
    after = from_report(pausing, report(State.RUNNING))
    assert isinstance(after, Settle)
    assert (after.state, after.reason) == (State.RUNNING, None)
    resting = replace(row(State.RUNNING), reason=reason.value)
    own = from_report(resting, report(State.PAUSED))
    assert isinstance(own, Settle)
    assert own.reason is None, "it was paused by its host, at the end of its time"


def test_what_was_being_moved_has_still_to_run_on_when_its_resume_came_to_nothing() -> None:
    moving = replace(row(State.RESUMING, 3, saved=2, stored=2), reason="drain")
    for decision in (absent(moving, NOW), from_report(moving, report(State.PAUSED, 2))):
        assert isinstance(decision, Settle)
        assert (decision.state, decision.reason) == (State.PAUSED, Reason.DRAIN)
