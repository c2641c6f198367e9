"""The matrix is whole, and the document tells what it is."""

import signal
import subprocess
import sys

import pytest
from faults import agent_matrix, agent_operations, control_plane_matrix, control_plane_operations
from faults.matrix import Row, points
from faults.results import documented

from wrenn_server.linux import crash

DEATHS = {"agent": agent_matrix.MATRIX, "control plane": control_plane_matrix.MATRIX}
TABLES = DEATHS | {
    "VMM": agent_matrix.VMM,
    "messages": agent_matrix.MESSAGES,
    "full disk": agent_matrix.DISK,
    "PostgreSQL": control_plane_matrix.POSTGRES,
    "network": control_plane_matrix.NETWORK,
}


def test_each_point_has_a_row_and_each_row_a_point() -> None:
    assert {row.point for matrix in DEATHS.values() for row in matrix} == points()
    assert {row.point for row in (*control_plane_matrix.POSTGRES, *agent_matrix.VMM)} <= points()


def test_each_row_has_an_operation() -> None:
    assert {row.operation for row in agent_matrix.MATRIX} == set(agent_operations.OPERATIONS)
    assert {row.operation for row in control_plane_matrix.MATRIX} == set(control_plane_operations.OPERATIONS)


@pytest.mark.parametrize(("name", "matrix"), TABLES.items())
def test_the_document_has_every_row(name: str, matrix: list[Row]) -> None:
    """`make faults` writes it."""
    assert [told[:3] for told in documented(name)] == [
        (row.operation, row.point, row.expected) for row in matrix
    ]


@pytest.mark.parametrize(
    ("wanted", "passed"), [("", 5), ("other", 5), ("here", 0), ("here:1", 0), ("here:3", 2)]
)
def test_a_program_dies_at_its_point(wanted: str, passed: int) -> None:
    program = (
        "from wrenn_server.linux.crash import crash_point\n"
        "for _ in range(5): crash_point('here'); print('passed', flush=True)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={crash.VARIABLE: wanted}, capture_output=True, text=True
    )
    assert run.stdout.split() == ["passed"] * passed, run.stderr
    assert run.returncode == (0 if passed == 5 else -signal.SIGKILL)
