"""The control plane as a program."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from support.simulated import eventually
from wrenn_server.db.pool import Database
from wrenn_server.db.sandboxes import GO_ON
from wrenn_server.up.demo import free_port

STARTS_WITHIN = 90.0
"""Seconds, within the 120 of a test. One that cannot start exits, which is seen at once; what else is slow is a machine with
much beside it: more than 30 s were seen on two processors with a load of 30."""


@asynccontextmanager
async def program(
    database_url: str, directory: Path, port: int, **settings: str
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """`wrenn-cp` as a process of its own, ready.

    :param settings: environment"""
    log = directory / "log"
    environ = {
        **os.environ,
        "DATABASE_URL": database_url,
        "CP_LISTEN_ADDR": f"127.0.0.1:{port}",
        "WRENN_DATA_DIR": str(directory),
        **settings,
    }
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "wrenn_server.controlplane.main", env=environ, cwd=directory, stdout=output, stderr=output
        )  # fmt: skip
    try:
        async with httpx2.AsyncClient(trust_env=False) as client:

            async def serves() -> bool:
                assert process.returncode is None, log.read_text()
                try:
                    return (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200
                except httpx2.TransportError:
                    return False

            await eventually(serves, within=STARTS_WITHIN)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # it may stand still
        await process.wait()


async def stands_still(pid: int) -> None:
    """Returns when that child of ours has got a SIGSTOP."""
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


@pytest.fixture
def port() -> int:
    return free_port()


async def age_leases(db: Database) -> None:
    """As if the 15 s had passed that the work of a dead control plane is left alone."""
    await db.execute("UPDATE sandboxes SET check_after = now() WHERE check_after IS NOT NULL")
    await db.execute("UPDATE snapshots SET check_after = now() WHERE check_after IS NOT NULL")


async def age_moves(db: Database) -> None:
    """As if the minute had passed that a sandbox may rest in the middle of a move or a rollback."""
    await db.execute(
        "UPDATE sandboxes SET updated_at = now() - interval '1 hour' WHERE reason = ANY($1)",
        [reason.value for reason in GO_ON],
    )
