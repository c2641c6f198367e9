"""Rows of the control plane."""

from faults.matrix import Row, rows


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
        "reconciling of a sandbox",
        dict.fromkeys(("reconcile.claimed", "reconcile.host_answered", "reconcile.applied"), "running"),
    ),
    *every(
        "reconciling of a snapshot",
        dict.fromkeys(("reconcile_snapshot.claimed", "reconcile_snapshot.given_up"), "gone"),
    ),
]
