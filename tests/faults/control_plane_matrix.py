"""Rows of the control plane."""

from faults.matrix import Row, rows
from faults.wire import CUT_AFTER, CUT_BEFORE, LOST, UNANSWERED


def every(operation: str, expected: dict[str, str]) -> list[Row]:
    """For operations whose points are passed in every run; those of `rows` are the same ones in another operation."""
    return rows(operation, expected, quick=expected)


MATRIX: list[Row] = [
    *every(
        "create",
        {"create.row_written": "failed", "create.host_answered": "running", "create.row_settled": "running"},
    ),
    *rows(
        "create from a snapshot",
        {"create.row_written": "failed", "create.host_answered": "running", "create.row_settled": "running"},
    ),
    *every(
        "pause",
        {"pause.row_written": "running", "pause.host_answered": "paused", "pause.row_settled": "paused"},
    ),
    *every(
        "resume",
        {"resume.row_written": "paused", "resume.host_answered": "running", "resume.row_settled": "running"},
    ),
    *every(
        "fork",
        {"fork.rows_written": "failed", "fork.host_answered": "running", "fork.row_settled": "running"},
    ),
    *every(
        "snapshot",
        {"snapshot.row_written": "gone", "snapshot.host_answered": "gone", "snapshot.row_settled": "ready"},
    ),
    *every(
        "delete of a snapshot",
        dict.fromkeys(("delete.rows_written", "delete.host_answered", "delete.row_removed"), "gone"),
    ),
    *every("kill", dict.fromkeys(("kill.row_written", "kill.host_answered", "kill.row_settled"), "killed")),
    *rows("kill of a paused one", dict.fromkeys(("kill.row_written", "kill.host_answered"), "killed")),
    *every("timeout", dict.fromkeys(("timeout.host_answered", "timeout.row_settled"), "running")),
    *every("network", dict.fromkeys(("network.host_answered", "network.row_settled"), "running")),
    *every("end of its time by a kill", {"expire.row_written": "killed"}),
    *rows("end of its time by a pause", {"pause.row_written": "running", "pause.host_answered": "paused"}),
    *every(
        "resume elsewhere",
        {"resume.row_written": "paused", "resume.host_answered": "running", "resume.row_settled": "running"},
    ),
    *every(
        "move of a running one",
        dict.fromkeys(
            (
                "pause.row_written",
                "pause.row_settled",
                "move.stored",
                "resume.row_written",
                "resume.host_answered",
                "resume.row_settled",
            ),
            "running",
        ),
    ),
    *every(
        "move of a paused one",
        dict.fromkeys(("move.stored", "move.fetched", "move.row_settled"), "paused"),
    ),
    *every(
        "reconciling of a sandbox",
        dict.fromkeys(("reconcile.claimed", "reconcile.host_answered", "reconcile.applied"), "running"),
    ),
    *every(
        "reconciling of a snapshot",
        dict.fromkeys(("reconcile_snapshot.claimed", "reconcile_snapshot.given_up"), "gone"),
    ),
]

POSTGRES: list[Row] = [
    *every(
        "create",
        dict.fromkeys(("create.row_written", "create.host_answered", "create.row_settled"), "running"),
    ),
    *every(
        "pause", dict.fromkeys(("pause.row_written", "pause.host_answered", "pause.row_settled"), "paused")
    ),
    *every(
        "resume",
        dict.fromkeys(("resume.row_written", "resume.host_answered", "resume.row_settled"), "running"),
    ),
    *every("fork", dict.fromkeys(("fork.rows_written", "fork.host_answered", "fork.row_settled"), "running")),
    *every(
        "snapshot",
        {"snapshot.row_written": "gone", "snapshot.host_answered": "gone", "snapshot.row_settled": "ready"},
    ),
    *every(
        "delete of a snapshot",
        dict.fromkeys(("delete.rows_written", "delete.host_answered", "delete.row_removed"), "gone"),
    ),
    *every("kill", dict.fromkeys(("kill.row_written", "kill.host_answered", "kill.row_settled"), "killed")),
    *every("timeout", {"timeout.host_answered": "running"}),
    *every("network", {"network.host_answered": "running"}),
    *every("end of its time by a kill", {"expire.row_written": "killed"}),
    *every("resume elsewhere", dict.fromkeys(("resume.row_written", "resume.host_answered"), "running")),
    *every(
        "move of a running one",
        dict.fromkeys(("pause.row_written", "move.stored", "resume.host_answered"), "running"),
    ),
    *every(
        "move of a paused one", dict.fromkeys(("move.stored", "move.fetched", "move.row_settled"), "paused")
    ),
    *every(
        "reconciling of a sandbox",
        dict.fromkeys(("reconcile.claimed", "reconcile.host_answered", "reconcile.applied"), "running"),
    ),
    *every("reconciling of a snapshot", {"reconcile_snapshot.claimed": "gone"}),
]
"""PostgreSQL dies when the control plane is there."""

TWICE, LATE = "twice", "late"
"""A request that is delivered once more: at once, or when its work has been undone meanwhile."""


def _wire(operation: str, done: str, *, before: str, after: str, late: str | None = None) -> list[Row]:
    """:param before: what it is when the wire is cut before the host heard of it; :param after: when after that"""
    expected = {LOST: done, UNANSWERED: done, CUT_BEFORE: before, CUT_AFTER: after, TWICE: done}
    return every(operation, expected if late is None else expected | {LATE: late})


NETWORK: list[Row] = [
    *_wire("create", "running", before="failed", after="failed", late="killed"),
    *_wire("pause", "paused", before="running", after="paused", late="running"),
    *_wire("resume", "running", before="paused", after="running", late="paused"),
    *_wire("fork", "running", before="failed", after="failed", late="killed"),
    *_wire("snapshot", "ready", before="gone", after="gone", late="gone"),
    *_wire("delete of a snapshot", "gone", before="gone", after="gone"),
    *_wire("kill", "killed", before="killed", after="killed"),
    *_wire("timeout", "running", before="running", after="running"),
    *_wire("network", "running", before="running", after="running"),
    *_wire("resume elsewhere", "running", before="paused", after="running"),
]
"""What happens to its call to the host."""
