"""The command `wrenn-cp`."""

import asyncio
import os
import sys
from pathlib import Path

from wrenn_server.db import migrate, pool


async def wrenn_cp(*words: str, directory: Path, **environ: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wrenn_server.controlplane.main", *words,
        env={"PATH": os.environ["PATH"], "WRENN_DATA_DIR": str(directory), **environ}, cwd=directory,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_migrate_and_admin(empty_database: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL={empty_database}\n")
    assert await wrenn_cp("migrate", "up", directory=tmp_path) == (0, f"schema {migrate.head()}\n", "")
    code, out, _ = await wrenn_cp("admin", "create", "--email", "A@b.c", directory=tmp_path)
    assert code == 0
    made = dict(line.split(":", 1) for line in out.splitlines())
    assert made["email"].strip() == "a@b.c"
    assert len(made["password"].strip()) >= 16
    assert made["api key"].strip().startswith("wrn_")
    _, again, _ = await wrenn_cp("admin", "create", "--email", "a@b.c", directory=tmp_path)
    assert "(unchanged)" in again
    while (down := await wrenn_cp("migrate", "down", directory=tmp_path))[1] != "the database is empty\n":
        assert down[0] == 0
        assert down[1].startswith("schema ")


async def test_serve_refuses_an_old_schema(empty_database: str, tmp_path: Path) -> None:
    code, _, err = await wrenn_cp(directory=tmp_path, DATABASE_URL=empty_database)
    assert code == 1
    assert "wrenn-cp migrate up" in err
    assert await migrate.current(empty_database) is None, "nothing is applied without being asked for"


async def test_no_database(tmp_path: Path) -> None:
    code, _, err = await wrenn_cp(directory=tmp_path, DATABASE_URL="postgres://u:secret@127.0.0.1:1/x")
    assert code == 1
    assert "database is not available" in err
    assert "Traceback" not in err
    assert "secret" not in err


async def test_bad_settings(tmp_path: Path) -> None:
    code, _, err = await wrenn_cp(directory=tmp_path, CP_LISTEN_ADDR="nonsense")
    assert (code, err) == (2, "wrenn-cp: CP_LISTEN_ADDR='nonsense': expected HOST:PORT or :PORT\n")


async def test_a_short_password(database_url: str, tmp_path: Path) -> None:
    words = ("admin", "create", "--email", "a@b.c", "--password", "short")
    code, _, err = await wrenn_cp(*words, directory=tmp_path, DATABASE_URL=database_url)
    assert code == 1
    assert "at least 8" in err
    async with pool.connect(database_url) as db:
        assert await db.fetchval("SELECT count(*) FROM users") == 0
