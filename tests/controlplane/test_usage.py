"""Usage: each sample counts once, whoever is told of it and how often; days, ranges and what becomes of old rows."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from support.simulated import World, control_plane
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.services import samples, usage
from wrenn_server.db import usage as db_usage
from wrenn_server.db.pool import Database
from wrenn_server.db.usage import BucketRow, Running
from wrenn_server.hostagent.control_plane import ControlPlane as Client
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire.agent import Sample, Samples

MIB = 1 << 20
EPOCH = 1_800_000_000.25


def yesterday() -> datetime:
    return datetime.combine(datetime.now(UTC).date() - timedelta(days=1), datetime.min.time(), UTC)


def sample(sandbox_id: str, number: int, **changes: Any) -> Sample:
    """Half of two processors, 100 MiB of memory and 200 of disk for 60 s: 1 minute, 100 and 200 MiB-minutes."""
    values: dict[str, Any] = {
        "cpu_count": 2, "cpu_used_pct": 50.0, "mem_used": 100 * MIB, "mem_total": 400 * MIB, "mem_cache": 0,
        "disk_used": 200 * MIB, "disk_total": 900 * MIB, "seconds": 60.0, "egress_bytes": 1000 + number,
    }  # fmt: skip
    return Sample(sandbox_id=sandbox_id, at=yesterday().timestamp() + 60 * number, **{**values, **changes})


async def send(
    host: SimulatedAgent, found: list[Sample], first: int, *, to: World | None = None, epoch: float = EPOCH
) -> None:
    client = host.control_plane if to is None else Client(to.url)
    body = Samples(samples=found, epoch=epoch, first=first)
    await client.post(f"/v1/hosts/{host.host_id}/samples", body, timeout=30, token=host.credentials.token)


async def told(world: World, query: str = "", of: str = "/v1/sandboxes/usage") -> list[dict[str, Any]]:
    """The points that are not empty."""
    answer = await world.api.get(of + query)
    assert answer.status_code == 200, answer.text
    return [point for point in answer.json()["points"] if point["ram_mb_minutes"]]


async def minutes(world: World) -> float:
    return sum(point["cpu_minutes"] for point in await told(world))


async def test_what_a_day_used(world: World, host: SimulatedAgent) -> None:
    one, two = [(await world.new_sandbox())["id"] for _ in range(2)]
    await send(host, [sample(one, 1), sample(two, 2), sample(one, 3)], 1)
    expected = {
        "date": yesterday().date().isoformat(),
        "cpu_minutes": 3.0, "ram_mb_minutes": 300.0, "disk_mb_minutes": 600.0, "egress_bytes": 3006,
    }  # fmt: skip
    assert await told(world) == [expected]
    [own] = await told(world, of=f"/v1/sandboxes/{one}/usage")
    assert (own["cpu_minutes"], own["egress_bytes"]) == (2.0, 2004)
    await world.api.delete(f"/v1/sandboxes/{one}")
    assert await told(world, of=f"/v1/sandboxes/{one}/usage") == [own]
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    foreign = world.api.with_key(other.api_key)
    assert (await foreign.get(f"/v1/sandboxes/{one}/usage")).status_code == 404
    assert not any(p["cpu_minutes"] for p in (await foreign.get("/v1/sandboxes/usage")).json()["points"])


async def test_repeated_reordered_and_concurrent_batches_on_two_control_planes_count_once(
    world: World, host: SimulatedAgent, database_url: str
) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    all_of_them = [sample(sandbox_id, number) for number in range(1, 41)]

    def batch(first: int, last: int) -> tuple[list[Sample], int]:
        return all_of_them[first - 1 : last], first

    async with control_plane(database_url) as other:
        await send(host, *batch(21, 30))
        await send(host, *batch(1, 10), to=other)
        await send(host, *batch(1, 10))
        assert await minutes(other) == 20
        # The same ones in other pieces, to both at the same time
        pieces = [(1, 40), (5, 15), (11, 20), (25, 40), (31, 40), (1, 40)]
        async with asyncio.TaskGroup() as group:
            for first, last in pieces:
                for to in (world, other):
                    group.create_task(send(host, *batch(first, last), to=to))
        assert await minutes(other) == 40
        assert (await told(other))[0]["egress_bytes"] == sum(1000 + number for number in range(1, 41))


async def test_an_agent_that_starts_again_begins_its_numbers_anew(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    await send(host, [sample(sandbox_id, 1), sample(sandbox_id, 2)], 1)
    await send(host, [sample(sandbox_id, 3)], 1, epoch=EPOCH + 9)
    await send(host, [sample(sandbox_id, 1), sample(sandbox_id, 2)], 1)  # late, of the one that died
    assert await minutes(world) == 3
    async with world.host() as other:  # with the same numbers, and nothing to tell of this sandbox
        await send(other, [sample(sandbox_id, 4)], 1)
    assert await minutes(world) == 3


async def test_samples_without_numbers_are_kept_and_not_counted(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    await send(host, [sample(sandbox_id, 1)], 0)
    assert await minutes(world) == 0
    assert await world.cp.db.fetchval("SELECT count(*) FROM samples") == 1


async def test_what_cannot_be_is_not_counted(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    bad = [{"seconds": 601.0}, {"seconds": -1.0}, {"egress_bytes": -1}, {"egress_bytes": 2**43}]
    await send(host, [sample(sandbox_id, n, **changes) for n, changes in enumerate(bad)], 1)
    assert await minutes(world) == 0
    for first, epoch in ((-1, EPOCH), (2**62, EPOCH)):
        with pytest.raises(InvalidRequest):
            await send(host, [sample(sandbox_id, 1)], first, epoch=epoch)


async def test_figures_beyond_measure_stand_still(world: World, host: SimulatedAgent) -> None:
    """A host that tells them costs nobody else the roll-up."""
    ids = [(await world.new_sandbox())["id"] for _ in range(2)]
    for first in (1, 41, 81):
        found = [sample(ids[n % 2], 1, mem_used=2**63 - 1, egress_bytes=2**43 - 1) for n in range(40)]
        await send(host, found, first)
    [before] = await told(world)
    assert before["ram_mb_minutes"] == 10**18 / 60_000
    assert before["egress_bytes"] == 120 * (2**43 - 1)
    long_ago = datetime.now(UTC).date() - timedelta(days=usage.KEEP_DAYS + 1)
    await world.cp.db.execute("UPDATE usage_days SET day = $1", long_ago)
    await usage.roll_up(world.cp)
    [day] = await usage.of_team(world.cp, world.admin.team_id, long_ago, long_ago)
    assert (day.memory_mb_ms, day.egress_bytes) == (10**18, before["egress_bytes"])


async def test_numbers_with_many_gaps_become_one_range(db: Database) -> None:
    await db.execute("INSERT INTO hosts (id) VALUES ('h')")
    async with db.transaction() as tx:
        assert await db_usage.untaken(tx, "h", 1.0, [1, 2]) == {1, 2}
        for number in range(1, 301, 3):
            await db_usage.take(tx, "h", 1.0, number, 1)
        assert await db_usage.untaken(tx, "h", 1.0, [1, 2, 298]) == {2}
        await db_usage.take(tx, "h", 1.0, 301, 1)
        assert await db_usage.untaken(tx, "h", 1.0, [2, 301, 302]) == {302}


async def test_ranges_of_days(world: World) -> None:
    today = datetime.now(UTC).date()
    for query, first, last in (
        ("", today - timedelta(days=29), today),
        ("?to=2026-03-31", date(2026, 3, 2), date(2026, 3, 31)),
        ("?from=2026-01-01&to=2026-04-02", date(2026, 1, 1), date(2026, 4, 2)),
        ("?to=0001-01-03", date(1, 1, 1), date(1, 1, 3)),
    ):
        answer = (await world.api.get(f"/v1/sandboxes/usage{query}")).json()
        assert (answer["from"], answer["to"]) == (first.isoformat(), last.isoformat())
        assert len(answer["points"]) == (last - first).days + 1
        assert answer["points"][0] == {
            "date": first.isoformat(), "cpu_minutes": 0, "ram_mb_minutes": 0, "disk_mb_minutes": 0, "egress_bytes": 0,
        }  # fmt: skip
    for query in ("?from=2026-01-01&to=2026-04-03", "?from=2026-01-02&to=2026-01-01", "?from=yesterday"):
        answer = await world.api.get(f"/v1/sandboxes/usage{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_range_over_the_roll_up_has_the_same_sums_and_one_control_plane_does_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, team_id = world.cp.db, world.admin.team_id
    today = datetime.now(UTC).date()
    first, last = today - timedelta(days=usage.KEEP_DAYS + 40), today - timedelta(days=usage.KEEP_DAYS - 40)
    monkeypatch.setattr(usage, "BATCH", 50)  # so that a day of many sandboxes goes in pieces
    await db.execute(
        """INSERT INTO usage_days SELECT 'sb' || n, $1::date + d, t, n * d, n + d, n * 2, n
             FROM generate_series(1, 7) n, generate_series(0, 80) d, unnest($2::text[]) t""",
        first,
        [team_id, "another"],
    )
    before = await usage.of_team(world.cp, team_id, first, last)
    async with db.transaction() as tx:  # another one is at it
        assert await db_usage.lease(tx)
        await usage.roll_up(world.cp)
        assert await db.fetchval("SELECT count(*) FROM usage_days") == 2 * 7 * 81
    await usage.roll_up(world.cp)
    assert await usage.of_team(world.cp, team_id, first, last) == before
    assert sum(day.egress_bytes for day in before) == 28 * 81
    kept = await db.fetchrow(
        """SELECT count(*) FILTER (WHERE sandbox_id = '') AS days,
                  min(day) FILTER (WHERE sandbox_id <> '') AS oldest FROM usage_days"""
    )
    assert kept is not None
    assert (kept["days"], kept["oldest"]) == (2 * 40, today - timedelta(days=usage.KEEP_DAYS))


async def test_draws_and_epochs_go_when_nobody_needs_them(
    world: World, host: SimulatedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, monthly = world.cp.db, usage.KEEP_DAYS
    monkeypatch.setattr(usage, "BATCH", 10)
    sandbox_id = (await world.new_sandbox())["id"]
    await send(host, [sample(sandbox_id, 1)], 1)
    await db.execute("UPDATE draws SET began_at = now() - interval '900 days'")  # runs, so it stays
    await db.execute(
        """INSERT INTO draws SELECT 'old' || n, 'team', 'all', 1, 1, 1, now() - interval '900 days',
                                    now() - make_interval(days => $1 + 20 - n)
             FROM generate_series(1, 40) n""",
        monthly,
    )
    age = "UPDATE sample_epochs SET seen_at = now() - make_interval(secs => $1)"
    await db.execute(age, samples.KEEP_SEC + 60)
    await usage.roll_up(world.cp)
    assert await db.fetchval("SELECT count(*) FROM draws") == 1 + 20
    assert await db.fetchval("SELECT count(*) FROM sample_epochs") == 1
    await db.execute(age, usage.EPOCH_KEEP_SEC + 60)
    await usage.roll_up(world.cp)
    assert await db.fetchval("SELECT count(*) FROM sample_epochs") == 0


# What ran


async def test_stats(world: World, host: SimulatedAgent) -> None:
    db, team_id = world.cp.db, world.admin.team_id
    await db.execute(
        """INSERT INTO draws SELECT 'past' || n, $1, draw, 2, 512, 1024, now() - began, now() - ended
             FROM (VALUES (1, 'all', interval '50 minutes', interval '40 minutes'), (2, 'all', '45 minutes', '44 minutes'),
                          (3, 'disk', '50 minutes', '1 minute'), (4, 'all', '20 days', '19 days'),
                          (5, 'all', '19 days 1 hour', '19 days'), (6, 'all', '19 days 1 hour', '19 days'),
                          (7, 'all', '40 days', '31 days')) v (n, draw, began, ended)""",
        team_id,
    )
    await world.new_sandbox(vcpus=1, memory_mb=256)
    paused = (await world.new_sandbox(vcpus=4, memory_mb=1024))["id"]
    await world.api.post(f"/v1/sandboxes/{paused}/pause", {})

    async def stats(query: str = "") -> dict[str, Any]:
        answer = await world.api.get(f"/v1/sandboxes/stats{query}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    hour = await stats()
    assert hour["range"] == "1h"
    assert hour["current"] == {"running_count": 1, "vcpus_reserved": 1, "memory_mb_reserved": 256}
    assert hour["peaks"] == {"running_count": 3, "vcpus": 6, "memory_mb": 1536}
    series = hour["series"]
    assert {len(series[key]) for key in ("labels", "running", "vcpus", "memory_mb")} == {120}
    assert (max(series["running"][:90]), max(series["vcpus"][:90])) == (2, 4)
    assert series["memory_mb"][0] == 0
    assert max(series["running"][-40:]) == 2  # both of now, until one was paused
    for query, count in (("5m", 100), ("6h", 120), ("24h", 120), ("30d", 120)):
        found = await stats(f"?range={query}")
        labels = [datetime.fromisoformat(label) for label in found["series"]["labels"]]
        assert len(labels) == count
        assert len({after - before for before, after in pairwise(labels)}) == 1
        assert labels[-1] <= datetime.now(UTC)
    assert (await world.api.get("/v1/sandboxes/stats?range=1y")).status_code == 400


def test_a_bucket_without_a_change_has_what_the_one_before_ended_with() -> None:
    def changed(bucket: int, most: int, last: int) -> BucketRow:
        return BucketRow(
            bucket=bucket, running=most, vcpus=most, memory_mb=most, last_running=last, last_vcpus=last,
            last_memory_mb=last,
        )  # fmt: skip

    found = usage.series([changed(1, 3, 2), changed(3, 1, 0)], 5)
    assert found == [Running(running=n, vcpus=n, memory_mb=n) for n in (0, 3, 2, 2, 0)]
