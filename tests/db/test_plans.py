"""The statements of the hot paths read no large table as a whole, whether planned for their arguments or for any."""

from bench import scale_fill, scale_plans
from support.rows import new_team
from wrenn_server.db.pool import Database

HOSTS, ALIVE = 100, 10_000


async def test_no_hot_statement_reads_a_large_table(db: Database) -> None:
    team_id = await new_team(db)
    await scale_fill.places(db, hosts=HOSTS, address="127.0.0.1:1")
    await scale_fill.sandboxes(db, team_id=team_id, hosts=HOSTS, before=0, alive=ALIVE)
    await db.execute(
        """INSERT INTO samples SELECT id, now() - n * interval '5 seconds', 1, 1, 1, 1, 1, 1, 1
             FROM sandboxes, generate_series(1, 3) n WHERE state = 'running'"""
    )
    await db.execute(
        "INSERT INTO usage_days SELECT id, current_date, team_id, 1, 1, 1, 1 FROM sandboxes WHERE state = 'running'"
    )
    await db.execute("ANALYZE")
    host_id, ids = await scale_plans.some(db)
    plans = await scale_plans.explain(db, team_id, host_id, ids)
    assert [plan for plan in plans if not plan.is_right] == []


async def test_what_is_filled_in_is_reserved_and_drawn_as_by_the_triggers(db: Database) -> None:
    team_id = await new_team(db)
    await scale_fill.places(db, hosts=10, address="127.0.0.1:1")
    await scale_fill.sandboxes(db, team_id=team_id, hosts=10, before=0, alive=100)
    await scale_fill.sandboxes(db, team_id=team_id, hosts=10, before=100, alive=400)
    assert await db.fetchval("SELECT sum(sandboxes) FROM hosts") == 400
    # Ended one by one with the triggers on, nothing is left of what they had.
    await db.execute("UPDATE sandboxes SET state = 'killed' WHERE state IN ('running', 'paused')")
    left = await db.fetchrow(
        """SELECT (SELECT sum(cpus_reserved + memory_mb_reserved + disk_mb_reserved + sandboxes) FROM hosts),
                  (SELECT sum(vcpus_drawn + memory_mb_drawn + disk_mb_drawn) FROM pools),
                  (SELECT count(*) FROM draws WHERE ended_at IS NULL)"""
    )
    assert left is not None
    assert list(left) == [0, 0, 0]
