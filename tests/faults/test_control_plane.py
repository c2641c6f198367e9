"""Control planes that die at a point of an operation, as processes, and those that come after them."""

import asyncio
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from faults.control_plane_matrix import MATRIX
from faults.control_plane_operations import OPERATIONS, arranged
from faults.matrix import ROUNDS, Row, runs
from faults.results import Results

from support.programs import age_leases, program
from wrenn_server.linux import crash


@pytest.fixture(scope="module")
def results() -> Generator[Results]:
    results = Results("control plane")
    yield results
    if ROUNDS:
        results.write(MATRIX)


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(MATRIX)]
)
async def test_what_the_next_control_plane_makes_of_it(
    database_url: str, tmp_path: Path, port: int, results: Results, row: Row, number: int
) -> None:
    with results.of(row):
        async with arranged(OPERATIONS[row.operation], database_url, port) as stage:
            fatal = {crash.VARIABLE: row.point}
            async with program(database_url, tmp_path, port, **fatal) as process:
                async with stage.client(), asyncio.timeout(30):
                    await stage.act()
                    assert await process.wait() == -signal.SIGKILL
            await age_leases(stage.scene.db)
            async with stage.serving():
                await stage.check(row.expected)
