"""PostgreSQL dies under a control plane that is at a point of an operation, and stays away until that has come to an end."""

import asyncio
import contextlib
import fcntl
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from faults.control_plane_matrix import POSTGRES
from faults.control_plane_operations import OPERATIONS, arranged
from faults.matrix import ROUNDS, Row, runs
from faults.results import Results

from support.postgres import TEMPLATE, fresh, make_template
from support.programs import age_leases, program, stands_still
from support.simulated import eventually
from wrenn_server.db import embedded, pool
from wrenn_server.db.pool import DatabaseUnavailable
from wrenn_server.linux import crash
from wrenn_server.linux.process import Process

UID = 29998


@pytest.fixture(scope="module")
def cluster() -> Generator[Path]:
    """A directory with a PostgreSQL that does not run, and a database to copy in it."""
    with tempfile.TemporaryDirectory(prefix="wrenn-test-pg-") as name:
        directory = Path(name)
        directory.chmod(0o711)

        async def make() -> None:
            async with embedded.server(directory / "postgres", uid=UID) as url:
                await make_template(url)

        asyncio.run(make())
        yield directory / "postgres"


@contextlib.asynccontextmanager
async def away(cluster: Path) -> AsyncGenerator[None]:
    """It is killed, and its keeper cannot start it again before the end."""
    descriptor = os.open(cluster / "lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        server = Process.open(int((cluster / "server/data/postmaster.pid").read_text().split()[0]))
        server.kill(signal.SIGKILL)
        await server.wait()
        server.close()
        yield
    finally:
        os.close(descriptor)


async def answers(url: str) -> bool:
    try:
        async with pool.connect(url):
            return True
    except DatabaseUnavailable:
        return False


@pytest.fixture(scope="module")
def results() -> Generator[Results]:
    results = Results("PostgreSQL")
    yield results
    if ROUNDS:
        results.write(POSTGRES)


@pytest.mark.parametrize(
    ("row", "number"), [pytest.param(row, n, id=f"{row.name}-{n}") for row, n in runs(POSTGRES)]
)
async def test_what_becomes_of_it(
    cluster: Path, tmp_path: Path, port: int, results: Results, row: Row, number: int
) -> None:
    halting = {crash.VARIABLE: row.point, crash.SIGNAL: "SIGSTOP"}
    with results.of(row):
        async with (
            embedded.server(cluster, uid=UID) as server,
            fresh(server, TEMPLATE) as url,
            arranged(OPERATIONS[row.operation], url, port) as stage,
            program(url, tmp_path, port, **halting) as process,
            stage.client(),
        ):
            async with asyncio.timeout(60):
                acting = asyncio.create_task(stage.act())
                await stands_still(process.pid)
                async with away(cluster):
                    process.send_signal(signal.SIGCONT)
                    await acting
            await eventually(lambda: answers(url))
            async with pool.connect(url) as db:
                await age_leases(db)
                stage.scene.db = db
                await stage.check(row.expected)
