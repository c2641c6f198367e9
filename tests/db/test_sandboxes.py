"""Statements about sandboxes: what they promise under races, and that capacity is never miscounted."""

import asyncio
import random
from collections.abc import Iterable

import msgspec
import pytest

from support.rows import ROOM, inserted, new_host, new_team, wanted
from wrenn_server.db import hosts, leases, listing, placement, reports, sandboxes, teams, transitions
from wrenn_server.db.pool import Database
from wrenn_server.db.sandboxes import SandboxRow
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.model.ids import new_team_id
from wrenn_server.model.sandbox import TRANSITIONS, State
from wrenn_server.wire.agent import HostSpecs, SandboxReport


async def recount(db: Database, host_id: str) -> tuple[int, int, int, int]:
    """What is reserved, counted from the sandboxes."""
    record = await db.fetchrow(
        """SELECT coalesce(sum(t.cpus), 0), coalesce(sum(t.memory), 0), coalesce(sum(t.disk), 0), coalesce(sum(t.count), 0)
             FROM sandboxes s, sandbox_takes(s.state, s.vcpus, s.memory_mb, s.disk_mb) t WHERE s.host_id = $1""",
        host_id,
    )
    assert record is not None
    return record[0], record[1], record[2], record[3]


async def counted(db: Database, host_id: str) -> tuple[int, int, int, int]:
    host = await hosts.get(db, host_id)
    assert host is not None
    return host.cpus_reserved, host.memory_mb_reserved, host.disk_mb_reserved, host.sandboxes


async def test_two_creates_cannot_both_take_the_last_room(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db, cpus=5)
    results = await asyncio.gather(
        *(sandboxes.insert(db, wanted(team_id, vcpus=2), host_id, ROOM) for _ in range(8))
    )
    assert sum(row is not None for row in results) == 2
    assert await counted(db, host_id) == (4, 1024, 10240, 2)


async def test_many_are_inserted_together_or_not_at_all(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db, cpus=3)
    assert await sandboxes.insert_many(db, [wanted(team_id) for _ in range(4)], host_id, ROOM) == []
    assert len(await sandboxes.insert_many(db, [wanted(team_id) for _ in range(3)], host_id, ROOM)) == 3


async def test_of_two_changes_at_once_one_wins(db: Database) -> None:
    row = await inserted(db, await new_team(db), await new_host(db))
    await transitions.settle(db, row.id, 1, [State.STARTING], State.RUNNING, started=True)
    results = await asyncio.gather(
        *(transitions.begin(db, row.id, 1, [State.RUNNING], State.PAUSING) for _ in range(10))
    )
    assert sum(result is not None for result in results) == 1


async def test_an_older_generation_changes_nothing(db: Database) -> None:
    row = await inserted(db, await new_team(db), await new_host(db))
    assert await transitions.settle(db, row.id, 0, [State.STARTING], State.RUNNING) is None
    assert await transitions.settle(db, row.id, 2, [State.STARTING], State.RUNNING) is None


async def test_reservations_are_those_of_the_rows_after_any_history(db: Database) -> None:
    team_id = await new_team(db)
    places = [await new_host(db), await new_host(db)]
    chance = random.Random(7)
    known: list[tuple[str, int, State]] = []
    for _ in range(150):
        host_id = chance.choice(places)
        if not known or chance.random() < 0.3:
            row = await sandboxes.insert(db, wanted(team_id, vcpus=chance.randint(1, 2)), host_id, ROOM)
            if row is not None:
                known.append((row.id, row.generation, row.state))
            continue
        index = chance.randrange(len(known))
        sandbox_id, generation, state = known[index]
        if state is State.PAUSED:
            resumed = await transitions.begin_resume(db, sandbox_id, generation, None, ROOM)
            if resumed is not None:
                known[index] = (sandbox_id, resumed.generation, resumed.state)
            continue
        following = sorted(TRANSITIONS[state])
        if following:
            after = chance.choice(following)
            settled = await transitions.settle(db, sandbox_id, generation, [state], after)
            assert settled is not None
            known[index] = (sandbox_id, generation, after)
    for host_id in places:
        assert await counted(db, host_id) == await recount(db, host_id)
    assert {state for _, _, state in known} > {State.RUNNING, State.PAUSED, State.FAILED}


async def test_a_paused_sandbox_gives_back_processors_and_takes_disk_for_its_memory(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db)
    row = await inserted(db, team_id, host_id)
    await transitions.settle(db, row.id, 1, [State.STARTING], State.PAUSED)
    assert await counted(db, host_id) == (0, 0, 5120 + 512, 1)


async def test_resume_needs_room(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db, cpus=1)
    paused = await inserted(db, team_id, host_id)
    await transitions.settle(db, paused.id, 1, [State.STARTING], State.PAUSED)
    other = await inserted(db, team_id, host_id)
    assert await transitions.begin_resume(db, paused.id, 1, None, ROOM) is None
    await transitions.settle(db, other.id, 1, [State.STARTING], State.FAILED)
    resuming = await transitions.begin_resume(db, paused.id, 1, 60, ROOM)
    assert resuming is not None
    assert (resuming.generation, resuming.state, resuming.timeout_sec) == (2, State.RESUMING, 60)


async def test_resumes_and_kills_and_creates_at_once_do_not_deadlock(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db, cpus=1000, memory_mb=10**6, disk_mb=10**6)
    rows = [await inserted(db, team_id, host_id) for _ in range(10)]
    for row in rows:
        await transitions.settle(db, row.id, 1, [State.STARTING], State.PAUSED)

    async def toggle(row: SandboxRow) -> None:
        for _ in range(5):
            resumed = await transitions.begin_resume(db, row.id, row.generation, None, ROOM)
            if resumed is None:
                return
            row = (
                await transitions.settle(db, row.id, resumed.generation, [State.RESUMING], State.PAUSED)
                or row
            )

    async def create() -> None:
        await sandboxes.insert(db, wanted(team_id), host_id, ROOM)

    await asyncio.gather(
        *(toggle(row) for row in rows),
        *(create() for _ in range(10)),
        *(leases.look_into(db, [row.id for row in rows]) for _ in range(5)),
        *(leases.extend(db, [row.id for row in reversed(rows)]) for _ in range(5)),
    )
    assert await counted(db, host_id) == await recount(db, host_id)


async def test_a_claimed_row_is_claimed_once(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db, cpus=100)
    rows = [await inserted(db, team_id, host_id) for _ in range(20)]
    assert await leases.claim(db, 100) == [], "their workers live"
    await db.execute("UPDATE sandboxes SET check_after = now() - interval '1 s'")
    claims = await asyncio.gather(*(leases.claim(db, 7) for _ in range(6)))
    claimed = [row.id for claim in claims for row in claim]
    assert sorted(claimed) == sorted(row.id for row in rows)


async def test_pages_are_complete_and_in_order(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db, cpus=100)
    # All in one statement: equal times of creation must not make pages skip rows.
    made = await sandboxes.insert_many(
        db, [wanted(team_id, metadata={"n": "1"}) for _ in range(7)], host_id, ROOM
    )
    await inserted(db, await new_team(db), host_id)
    seen: list[str] = []
    after = None
    while True:
        page = await listing.page(db, team_id, states=None, metadata={"n": "1"}, after=after, limit=3)
        seen += [row.id for row in page]
        if len(page) < 3:
            break
        after = (page[-1].created_at, page[-1].id)
    assert sorted(seen) == sorted(row.id for row in made)
    assert len(set(seen)) == len(seen)


async def test_losing_a_host_and_what_stays(db: Database) -> None:
    team_id, host_id = await new_team(db), await new_host(db)
    states: Iterable[State] = (State.RUNNING, State.PAUSED, State.KILLING, State.FAILED)
    rows: dict[State, str] = {}
    for state in states:
        row = await inserted(db, team_id, host_id)
        await transitions.settle(db, row.id, 1, [State.STARTING], state)
        rows[state] = row.id
    await db.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '91 s'")
    assert await hosts.expire(db, 90.0) == [host_id]
    assert await hosts.expire(db, 90.0) == []
    await transitions.lose(db)
    found = {state: (await sandboxes.get(db, sandbox_id)) for state, sandbox_id in rows.items()}
    assert {state: row.state for state, row in found.items() if row} == {
        State.RUNNING: State.LOST,
        State.PAUSED: State.LOST,
        State.KILLING: State.KILLING,
        State.FAILED: State.FAILED,
    }


async def test_heartbeats_out_of_order_are_told_apart(db: Database) -> None:
    host_id = await new_host(db)
    host = await hosts.get(db, host_id)
    assert host is not None
    specs = HostSpecs(
        arch="x", cpus=1, memory_mb=1, disk_mb=1, vmm="q", vmm_version="7", accelerated=False, version="1"
    )

    async def beat(started_at: float, sequence: int) -> bool:
        return await hosts.heartbeat(
            db, host_id, started_at=started_at, sequence=sequence, installation="a", address=None, specs=specs,
            templates=[],
        )  # fmt: skip

    assert await beat(1.0, 3)
    assert not await beat(1.0, 2), "late"
    assert not await beat(1.0, 3), "twice"
    assert await beat(2.0, 1), "the agent started anew"
    assert not await beat(1.0, 4), "of the agent before"
    await db.execute("UPDATE hosts SET last_heartbeat_at = now() - interval '91 s'")
    await hosts.expire(db, 90.0)
    assert await beat(0.5, 1), "its clock was set back while it was away"


async def test_candidates_have_room_and_the_image(db: Database) -> None:
    small, large = await new_host(db, cpus=1), await new_host(db, cpus=64, memory_mb=65536)

    async def choices(**changes: object) -> list[str]:
        asked = {
            "image": "minimal",
            "host_id": None,
            "team_id": "team_x",
            "vcpus": 1,
            "memory_mb": 512,
            "disk_mb": 5120,
            **changes,
        }
        found = await placement.choices(db, room=ROOM, limit=8, **asked)  # pyright: ignore[reportArgumentType] - as above
        return sorted(candidate.id for candidate in found)

    assert await choices() == sorted([small, large])
    assert await choices(vcpus=2) == [large]
    assert await choices(memory_mb=65537) == []
    assert await choices(image="other") == []
    assert await choices(host_id=small) == [small]
    await db.execute("UPDATE hosts SET status = 'unreachable' WHERE id = $1", large)
    assert await choices() == [small]
    await db.execute("UPDATE hosts SET templates = '{}'")
    assert await choices() == []


async def test_candidates_are_the_teams_own_and_as_it_asks(db: Database) -> None:
    team, other = await new_team(db), await new_team(db)
    shared = await new_host(db, tags=["gpu", "ssd"], availability_zone="z")
    own = await new_host(db, team_id=team, tags=["ssd"])

    async def choices(team_id: str, *tags: str, zone: str | None = None) -> list[str]:
        found = await placement.choices(
            db, image="minimal", host_id=None, team_id=team_id, tags=tags, availability_zone=zone,
            vcpus=1, memory_mb=512, disk_mb=5120, room=ROOM, limit=8,
        )  # fmt: skip
        return [candidate.id for candidate in found]

    assert await choices(team) == await choices(team, "ssd") == [own]
    assert await choices(team, "gpu") == [], "not on everybody's hosts, although one of those would do"
    assert await choices(other) == await choices(other, "gpu", "ssd", zone="z") == [shared]
    assert await choices(other, zone="y") == await choices(other, "fpga") == []
    await db.execute("UPDATE hosts SET status = 'unreachable' WHERE id = $1", own)
    assert await choices(team) == [], "its data stays on its own machines while they are away, too"
    await db.execute("UPDATE hosts SET status = 'pending' WHERE id = $1", own)
    assert await choices(team) == [shared], "one that has never been there changes nothing yet"


async def test_another_teams_host_takes_nothing(db: Database) -> None:
    team, other = await new_team(db), await new_team(db)
    own = await new_host(db, team_id=team)
    assert await sandboxes.insert(db, wanted(other), own, ROOM) is None
    assert await sandboxes.insert(db, wanted(team), own, ROOM) is not None


async def test_a_host_and_the_record_differ_where_they_do_not_say_the_same(db: Database) -> None:
    team, other = await new_team(db), await new_team(db)
    host, elsewhere = await new_host(db, cpus=64), await new_host(db)
    names = (
        "same", "paused", "unsaved", "older", "pausing", "starting", "missing", "ended", "elsewhere", "stored", "saved",
        "resuming",
    )  # fmt: skip
    made = {name: await inserted(db, team, elsewhere if name == "elsewhere" else host) for name in names}
    for name in made.keys() - {"starting"}:
        await transitions.settle(db, made[name].id, 1, [State.STARTING], State.RUNNING, started=True)
    await transitions.settle(db, made["paused"].id, 1, [State.RUNNING], State.PAUSED, saved_generation=1)
    await transitions.settle(db, made["unsaved"].id, 1, [State.RUNNING], State.PAUSED)
    await transitions.settle(db, made["ended"].id, 1, [State.RUNNING], State.KILLED)
    for name in ("stored", "saved", "resuming"):
        await transitions.settle(db, made[name].id, 1, [State.RUNNING], State.PAUSED, saved_generation=1)
    await sandboxes.note_stored(
        db, host, "store", [(made[name].id, 1, "m") for name in ("stored", "resuming")]
    )
    assert await transitions.begin_resume(db, made["resuming"].id, 1, None, ROOM)
    said = {"paused": State.PAUSED, "unsaved": State.PAUSED, "pausing": State.PAUSING}
    told = [
        SandboxReport(
            id=row.id, generation=2 if name == "older" else 1, state=said.get(name, State.RUNNING), vcpus=1,
            memory_mb=512, disk_mb=5120,
        )
        for name, row in made.items()
        if name not in ("missing", "stored", "saved", "resuming")
    ]  # fmt: skip
    strange = msgspec.structs.replace(told[0], id="sb" + "0" * 20, generation=2**40)

    async def differing(team_id: str | None) -> set[str]:
        known = {row.id: name for name, row in made.items()} | {strange.id: "unknown"}
        return {known[id] for id in await reports.differing(db, host, team_id, [*told, strange])}

    alike = {"same", "paused"}
    everything = {*made, "unknown"} - {"stored"}
    assert await differing(None) == await differing(team) == everything - alike
    assert await differing(other) == everything, (
        "of a team's own host another team's sandboxes are never believed"
    )


async def test_text_that_postgresql_cannot_store_is_the_callers_mistake(db: Database) -> None:
    with pytest.raises(InvalidRequest):
        await teams.insert(db, id=new_team_id(), name="a\0b", slug="a\0b")
