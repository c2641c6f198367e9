"""Pools are never overdrawn, whatever happens at once, and what is drawn is what the sandboxes draw."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.rows import ROOM, inserted, new_host, new_team, wanted
from wrenn_server.db import pools, sandboxes, teams, transitions
from wrenn_server.db.pool import Database
from wrenn_server.db.pools import PlanRow
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import Unavailable
from wrenn_server.model.ids import new_cap_id, new_team_id
from wrenn_server.model.pool import Capacity, PoolExhausted
from wrenn_server.model.sandbox import Reason, State


async def open_pool(db: Database, team_id: str, size: Capacity) -> None:
    async with db.transaction() as tx:
        assert await pools.hold_draws(tx, team_id)
        await pools.open(tx, team_id, size, None, await pools.drawn(tx, team_id))


async def new_pool(db: Database, *, vcpus: int = 4, memory_mb: int = 4096, disk_mb: int = 40960) -> str:
    team_id = await new_team(db)
    await open_pool(db, team_id, Capacity(vcpus, memory_mb, disk_mb))
    return team_id


async def settle(db: Database, row: SandboxRow, after: State, reason: str | None = None) -> None:
    assert await transitions.settle(db, row.id, row.generation, list(State), after, reason=reason)


async def drawn(db: Database, team_id: str) -> Capacity:
    pool = await pools.get(db, team_id)
    assert pool is not None
    assert pool.drawn == await pools.drawn(db, team_id)
    return pool.drawn


@pytest.mark.parametrize(
    ("life", "expected"),
    [
        ([], Capacity(1, 512, 5120)),
        ([State.RUNNING], Capacity(1, 512, 5120)),
        ([State.RUNNING, State.PAUSING], Capacity(1, 512, 5120)),
        ([State.RUNNING, State.PAUSING, State.PAUSED], Capacity(0, 0, 5120)),
        ([State.RUNNING, State.PAUSED, State.RESUMING], Capacity(1, 512, 5120)),
        ([State.RUNNING, State.LOST], Capacity(1, 512, 5120)),
        ([State.RUNNING, State.PAUSED, State.LOST], Capacity(0, 0, 5120)),
        ([State.RUNNING, State.PAUSED, State.KILLING], Capacity(0, 0, 5120)),
        ([State.RUNNING, State.KILLING], Capacity(1, 512, 5120)),
        ([State.RUNNING, State.KILLING, State.KILLED], Capacity()),
        ([State.FAILED], Capacity()),
        ([State.FAILED, State.KILLING], Capacity()),
    ],
)
async def test_what_a_sandbox_draws(db: Database, life: list[State], expected: Capacity) -> None:
    team_id, host_id = await new_pool(db), await new_host(db)
    row = await inserted(db, team_id, host_id)
    for state in life:
        await settle(db, row, state)
    assert await drawn(db, team_id) == expected
    await db.execute("DELETE FROM sandboxes")
    assert await drawn(db, team_id) == Capacity()


@pytest.mark.parametrize("reason", sandboxes.GO_ON)
async def test_what_rests_for_a_moment_keeps_its_draw(db: Database, reason: Reason) -> None:
    team_id, host_id = await new_pool(db, vcpus=1), await new_host(db)
    row = await inserted(db, team_id, host_id)
    await settle(db, row, State.PAUSED, reason)
    with pytest.raises(PoolExhausted):
        await inserted(db, team_id, host_id)
    assert await transitions.begin_resume(db, row.id, 1, None, ROOM) is not None


async def test_a_full_pool_refuses_in_the_statement_that_places(db: Database) -> None:
    team_id, host_id = await new_pool(db), await new_host(db)
    await inserted(db, team_id, host_id, vcpus=3)
    with pytest.raises(PoolExhausted) as refused:
        await inserted(db, team_id, host_id, vcpus=3, memory_mb=4096)
    assert (refused.value.missing, refused.value.never) == (Capacity(2, 512, 0), False)
    with pytest.raises(PoolExhausted) as refused:
        await inserted(db, team_id, host_id, vcpus=5)
    assert refused.value.never
    host = await db.fetchrow("SELECT cpus_reserved, sandboxes FROM hosts")
    assert host is not None
    assert tuple(host) == (3, 1), "nothing is half done"


async def test_paused_ones_make_room_and_come_back_only_when_there_is_some(db: Database) -> None:
    team_id, host_id = await new_pool(db, vcpus=1), await new_host(db)
    first = await inserted(db, team_id, host_id)
    await settle(db, first, State.PAUSED)
    second = await inserted(db, team_id, host_id)
    with pytest.raises(PoolExhausted):
        await transitions.begin_resume(db, first.id, 1, None, ROOM)
    await settle(db, second, State.KILLED)
    assert await transitions.begin_resume(db, first.id, 1, None, ROOM) is not None


async def test_many_are_drawn_together_or_not_at_all(db: Database) -> None:
    team_id, host_id = await new_pool(db), await new_host(db)
    with pytest.raises(PoolExhausted):
        await sandboxes.insert_many(db, [wanted(team_id) for _ in range(5)], host_id, ROOM)
    assert await drawn(db, team_id) == Capacity()
    assert len(await sandboxes.insert_many(db, [wanted(team_id) for _ in range(4)], host_id, ROOM)) == 4


async def test_a_pool_that_is_opened_while_sandboxes_are_made(db: Database) -> None:
    host_id = await new_host(db, cpus=1000)
    for _ in range(5):
        team_id = await new_team(db)

        async def make(team_id: str = team_id) -> bool:
            try:
                row = await inserted(db, team_id, host_id)
                await settle(db, row, State.PAUSED)
                return await transitions.begin_resume(db, row.id, 1, None, ROOM) is not None
            except PoolExhausted:
                return False

        async def open_it(team_id: str = team_id) -> None:
            await open_pool(db, team_id, Capacity(10, 100_000, 100_000))

        await asyncio.gather(*(make() for _ in range(5)), open_it(), *(make() for _ in range(5)))
        assert (await drawn(db, team_id)).disk_mb == 10 * 5120
        assert not await make() or (await drawn(db, team_id)).vcpus <= 10


# The queue


async def test_nobody_overtakes_who_waits(db: Database) -> None:
    team_id, host_id = await new_pool(db, vcpus=2), await new_host(db)
    running = await inserted(db, team_id, host_id)
    first, second = await pools.join(db, team_id, None), await pools.join(db, team_id, None)
    assert first is not None
    assert second is not None
    for ticket in (None, second):  # there is room for one, and the first is not back yet
        with pytest.raises(PoolExhausted) as refused:
            await inserted(db, team_id, host_id, pool_ticket=ticket)
        assert refused.value.missing == Capacity()
    assert refused.value.ahead == 1
    assert await pools.wait(db, team_id, second, capped=False) == 1
    await inserted(db, team_id, host_id, pool_ticket=first)
    assert await pools.wait(db, team_id, first, capped=False) is None, "a place is used once"
    await settle(db, running, State.KILLED)
    assert await pools.wait(db, team_id, second, capped=False) == 0
    await inserted(db, team_id, host_id, pool_ticket=second)
    assert await pools.waiting(db, team_id) == 0


async def test_the_place_of_one_who_died_lapses(db: Database) -> None:
    team_id, host_id = await new_pool(db), await new_host(db)
    dead, key = await pools.join(db, team_id, None), await pools.join(db, team_id, "key")
    assert await pools.join(db, team_id, "key") == key, "who comes again has the place that it had"
    await db.execute("UPDATE pool_waiters SET seen_at = now() - interval '16 s' WHERE id = $1", dead)
    await inserted(db, team_id, host_id, pool_ticket=key)
    await pools.join(db, team_id, None)
    assert await db.fetchval("SELECT count(*) FROM pool_waiters WHERE id = $1", dead) == 0


async def test_who_waits_for_a_cap_keeps_nobody_waiting(db: Database) -> None:
    team_id, host_id = await new_pool(db), await new_host(db)
    ticket = await pools.join(db, team_id, None)
    assert ticket is not None
    await pools.wait(db, team_id, ticket, capped=True)
    await inserted(db, team_id, host_id)


@dataclass
class Heard:
    told: asyncio.Event
    payloads: list[str]

    def __call__(self, payload: str) -> None:
        if payload.startswith("pool"):
            self.payloads.append(payload)
            self.told.set()


async def test_whoever_waits_is_told(db: Database) -> None:
    team_id, host_id = await new_pool(db), await new_host(db)
    row = await inserted(db, team_id, host_id)
    heard = Heard(asyncio.Event(), [])
    async with db.listening("wrenn", heard):
        await settle(db, row, State.PAUSED)  # nobody waits: nobody is told
        ticket = await pools.join(db, team_id, None)
        assert ticket is not None
        await settle(db, row, State.KILLED)
        await heard.told.wait()
        assert heard.payloads == [f"pool {team_id}"]
        heard.told.clear()
        await pools.leave(db, team_id, ticket)
        await heard.told.wait()
        assert heard.payloads == [f"pool {team_id}"] * 2


# Caps


async def cap(db: Database, team_id: str, kind: str, name: str, value: str, vcpus: int) -> str:
    async with db.transaction() as tx:
        await pools.lock(tx, team_id)
        row = await pools.set_cap(
            tx,
            team_id,
            id=new_cap_id(),
            kind=kind,
            name=name,
            value=value,
            bound=(vcpus, None, None),
            now=await pools.cap_drawn(tx, team_id, kind, name, value),
        )
    assert row is not None
    return row.id


@pytest.mark.parametrize(
    ("kind", "name", "value", "inside"),
    [
        ("key", "key_a", "", {"key_id": "key_a"}),
        ("label", "job", "ci", {"metadata": {"job": "ci", "n": "1"}}),
    ],
)
async def test_caps(db: Database, kind: str, name: str, value: str, inside: dict[str, object]) -> None:
    team_id, host_id = await new_pool(db), await new_host(db)
    first = await inserted(db, team_id, host_id, **inside)
    cap_id = await cap(db, team_id, kind, name, value, 2)
    await inserted(db, team_id, host_id, **inside)
    with pytest.raises(PoolExhausted) as refused:
        await inserted(db, team_id, host_id, **inside)
    assert (refused.value.cap, refused.value.missing) == (cap_id, Capacity(1, 0, 0))
    await inserted(db, team_id, host_id, key_id="key_b", metadata={"job": "other"})
    await settle(db, first, State.KILLED)
    await inserted(db, team_id, host_id, **inside)
    [row] = await pools.caps(db, team_id)
    assert row.vcpus_drawn == 2


async def test_new_teams_have_the_default_plan(db: Database) -> None:
    async with db.transaction() as tx:
        for name, default in (("old", True), ("small", True), ("large", False)):
            plan = PlanRow(
                name=name, vcpus=2, memory_mb=1024, disk_mb=9, spend_limit=None, is_default=default
            )
            await pools.set_plan(tx, plan)
    assert [plan.name for plan in await pools.plans(db) if plan.is_default] == ["small"]
    pool = await pools.get(db, await new_team(db))
    assert pool is not None
    assert pool.bought == Capacity(2, 1024, 9)
    [change] = await pools.changes(db, pool.team_id, before=None, limit=9)
    assert (change.kind, change.vcpus) == ("open", 2)


# No overcommit, at any moment

Step = Callable[["Worker"], "asyncio.Future[None]"]


class Worker:
    """Does what it is told with sandboxes of its own; refusals are part of life."""

    def __init__(self, db: Database, team_id: str, host_id: str) -> None:
        self.db, self.team_id, self.host_id = db, team_id, host_id
        self.rows: list[SandboxRow] = []

    async def run(self, steps: list[tuple[str, int]]) -> None:
        for name, n in steps:
            try:
                await self.step(name, n)
            except PoolExhausted:
                pass
            except Unavailable as error:  # two resizes or moves may wait for each other, and one gives way
                assert "deadlock" in str(error)  # noqa: PT017 - anything else is a failure

    async def step(self, name: str, n: int) -> None:
        if name == "start":
            self.rows += await sandboxes.insert_many(
                self.db,
                [wanted(self.team_id, vcpus=1 + n % 3, key_id=f"key_{n % 2}") for _ in range(1 + n % 2)],
                self.host_id,
                ROOM,
            )
        elif name == "grow":
            await self.resize(n)
        elif self.rows:
            row = self.rows[n % len(self.rows)]
            if name == "resume":
                await transitions.begin_resume(self.db, row.id, row.generation, None, ROOM)
                now = await sandboxes.get(self.db, row.id)
                assert now is not None
                self.rows[n % len(self.rows)] = now
            else:
                await transitions.settle(
                    self.db,
                    row.id,
                    row.generation,
                    list(State),
                    State(name),
                    reason="drain" if n == 7 else None,
                )

    async def resize(self, n: int) -> None:
        async with self.db.transaction() as tx:
            pool = await pools.lock(tx, self.team_id)
            assert pool is not None
            size = Capacity(n, n * 1024, n * 10_000)
            now = pool.drawn
            if now.vcpus <= size.vcpus and now.memory_mb <= size.memory_mb and now.disk_mb <= size.disk_mb:
                await pools.resize(tx, self.team_id, size, None)


async def audit(db: Database, team_id: str, until: asyncio.Event) -> None:
    """Of one moment of the database each time: what is counted is what is drawn, and within what is bought."""
    while not until.is_set():
        record = await db.fetchrow(
            """SELECT p.*, d.* FROM pools p, LATERAL (
                   SELECT coalesce(sum(s.vcpus) FILTER (WHERE draw = 'all'), 0) AS cpus,
                          coalesce(sum(s.memory_mb) FILTER (WHERE draw = 'all'), 0) AS memory,
                          coalesce(sum(s.disk_mb), 0) AS disk
                     FROM sandboxes s JOIN draws d ON d.sandbox_id = s.id AND d.ended_at IS NULL
                    WHERE s.team_id = p.team_id) d WHERE p.team_id = $1""",
            team_id,
        )
        assert record is not None
        assert record["cpus"] == record["vcpus_drawn"] <= record["vcpus"]
        assert record["memory"] == record["memory_mb_drawn"] <= record["memory_mb"]
        assert record["disk"] == record["disk_mb_drawn"] <= record["disk_mb"]


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["start", "start", "resume", "grow", "paused", "running", "lost", "killing", "killed", "failed"]
        ),
        st.integers(0, 12),
    ),
    max_size=10,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=2, max_size=6), st.integers(0, 12))
async def test_no_history_overdraws_a_pool(
    db: Database, lives: list[list[tuple[str, int]]], size: int
) -> None:
    team_id, host_id = await new_pool(db, vcpus=size), await new_host(db, cpus=64)
    await cap(db, team_id, "key", "key_1", "", 3)
    over = asyncio.Event()
    auditor = asyncio.create_task(audit(db, team_id, over))
    await asyncio.gather(*(Worker(db, team_id, host_id).run(life) for life in lives))
    over.set()
    await auditor
    [row] = await pools.caps(db, team_id)
    assert row.vcpus_drawn <= 3
    async with db.transaction() as tx:
        assert (await pools.cap_drawn(tx, team_id, "key", "key_1", "")).vcpus == row.vcpus_drawn


async def test_the_database_itself_refuses_an_overdraft(db: Database) -> None:
    team_id = new_team_id()
    await teams.insert(db, id=team_id, name="team", slug="team")
    await open_pool(db, team_id, Capacity(1, 1, 1))
    with pytest.raises(Exception, match="pools_not_overdrawn"):
        await db.execute("UPDATE pools SET vcpus_drawn = 2")
