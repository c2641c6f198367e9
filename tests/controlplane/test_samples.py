"""Samples: from hosts into the database, and out by range."""

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from support.simulated import World
from wrenn_server.controlplane import bootstrap
from wrenn_server.controlplane.reconcile import samples as reconcile_samples
from wrenn_server.controlplane.services import samples
from wrenn_server.db import samples as db_samples
from wrenn_server.db.pool import Database
from wrenn_server.hostagent.simulated import SimulatedAgent
from wrenn_server.model.errors import Forbidden, InvalidRequest, NotFound, TooLarge, Unauthorized
from wrenn_server.model.ids import new_sandbox_id
from wrenn_server.wire.agent import SAMPLES_MAX, Sample, Samples

NOW = 1_800_000_000.0


def sample(sandbox_id: str, at: float, **changes: Any) -> Sample:
    values: dict[str, Any] = {
        "cpu_count": 2, "cpu_used_pct": 12.5, "mem_used": 100, "mem_total": 400, "mem_cache": 50, "disk_used": 7,
        "disk_total": 9,
    }  # fmt: skip
    return Sample(sandbox_id=sandbox_id, at=at, **{**values, **changes})


async def send(host: SimulatedAgent, batch: list[Sample], **changes: Any) -> None:
    options: dict[str, Any] = {"host_id": host.host_id, "token": host.credentials.token, **changes}
    path = f"/v1/hosts/{options['host_id']}/samples"
    await host.control_plane.post(path, Samples(samples=batch), timeout=30, token=options["token"])


async def points(world: World, sandbox_id: str, query: str = "") -> list[dict[str, Any]]:
    answer = await world.api.get(f"/v1/sandboxes/{sandbox_id}/metrics{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["sandbox_id"] == sandbox_id
    return answer.json()["points"]


async def stored(db: Database) -> int:
    return await db.fetchval("SELECT count(*) FROM samples")


async def test_what_a_host_sends_can_be_read(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    assert await points(world, sandbox_id) == []
    at = time.time() - 10
    await send(host, [sample(sandbox_id, at + n, cpu_used_pct=n) for n in range(3)])
    found = await points(world, sandbox_id)
    assert [point["cpu_pct"] for point in found] == [0, 1, 2]
    assert found[0]["timestamp_unix"] == pytest.approx(at, abs=0.001)
    assert {key: found[0][key] for key in found[0] if key.endswith("bytes")} == {
        "mem_bytes": 100, "mem_total_bytes": 400, "mem_cache_bytes": 50, "disk_bytes": 7, "disk_total_bytes": 9,
    }  # fmt: skip


async def test_the_same_batch_twice_is_stored_once(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    batch = [sample(sandbox_id, time.time() - n) for n in range(10)]
    await send(host, batch)
    await send(host, list(reversed(batch)) + batch)
    assert await stored(world.cp.db) == 10


async def test_they_stay_when_the_sandbox_has_ended(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    await world.api.delete(f"/v1/sandboxes/{sandbox_id}")
    await send(host, [sample(sandbox_id, time.time())])  # taken before, sent after
    assert len(await points(world, sandbox_id)) == 1


async def test_a_host_speaks_for_its_own_sandboxes_alone(world: World, host: SimulatedAgent) -> None:
    ours = (await world.new_sandbox())["id"]
    async with world.host() as other:
        await send(other, [sample(ours, time.time()), sample(new_sandbox_id(), time.time())])
        assert await stored(world.cp.db) == 0
        with pytest.raises(Forbidden):
            await send(host, [sample(ours, time.time())], token=other.credentials.token)
    with pytest.raises(Unauthorized):
        await send(host, [sample(ours, time.time())], token="nonsense")
    assert await stored(world.cp.db) == 0


async def test_a_batch_has_a_bound(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    at = time.time()
    await send(host, [sample(sandbox_id, at - n / 100) for n in range(SAMPLES_MAX)])
    assert await stored(world.cp.db) == SAMPLES_MAX
    with pytest.raises(InvalidRequest):
        await send(host, [sample(sandbox_id, at) for _ in range(SAMPLES_MAX + 1)])
    with pytest.raises(TooLarge):
        await send(host, [sample(sandbox_id, at) for _ in range(5 * SAMPLES_MAX)])


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"cpu_used_pct": 0}, True),
        ({"cpu_used_pct": 100}, True),
        ({"cpu_used_pct": -1}, False),
        ({"cpu_used_pct": 101}, False),
        ({"cpu_used_pct": math.nan}, False),
        ({"cpu_count": 0}, False),
        ({"cpu_count": 2**31}, False),
        ({"mem_used": 2**63 - 1}, True),
        ({"mem_used": 2**63}, False),
        ({"disk_total": -1}, False),
        ({"at": NOW + 299}, True),
        ({"at": NOW + 301}, False),
        ({"at": NOW - samples.KEEP_SEC - 1}, False),
        ({"at": math.inf}, False),
        ({"at": math.nan}, False),
        ({"at": -1e300}, False),
    ],
)
def test_what_can_be(changes: dict[str, Any], taken: bool) -> None:
    assert samples.plausible(replace(sample("sb", NOW), **changes), NOW) is taken


async def test_one_bad_sample_does_not_cost_the_others(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    at = time.time()
    await send(host, [sample(sandbox_id, at), sample(sandbox_id, at - 1, mem_used=2**63)])
    assert await stored(world.cp.db) == 1


async def test_ranges(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    now = int(time.time())
    await send(
        host, [sample(sandbox_id, now - age, cpu_count=n) for n, age in enumerate((4000, 500, 100, 10), 1)]
    )

    async def found(query: str) -> list[int]:
        return [point["cpu_count"] for point in await points(world, sandbox_id, query)]

    assert await found("") == [2, 3, 4]
    assert await found("?range=5m") == [3, 4]
    assert await found("?range=2h") == [1, 2, 3, 4]
    assert await found(f"?start={now - 500}&end={now - 100}") == [2, 3]
    assert await found(f"?start={now - 200}") == [3, 4]
    assert await found(f"?start={now - 9000}&end={now - 5000}") == []
    for query in (
        "?range=3m",
        f"?range=5m&start={now}",
        f"?start={now}&end={now - 1}",
        "?start=-1",
        "?end=1e9",
    ):
        answer = await world.api.get(f"/v1/sandboxes/{sandbox_id}/metrics{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_without_a_range_all_since_its_creation(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    created_at = datetime.now(UTC) - timedelta(hours=1)
    await world.cp.db.execute("UPDATE sandboxes SET created_at = $1", created_at)
    await send(host, [sample(sandbox_id, created_at.timestamp() + s) for s in (-100, 5, 1000)])
    found = await samples.between(world.cp, world.admin.team_id, sandbox_id)
    assert len(found) == 2


async def test_many_points_are_thinned_evenly(db: Database) -> None:
    await db.execute(
        """INSERT INTO samples SELECT 'sb', to_timestamp(n), 1, 0, n, 1, 1, 1, 1 FROM generate_series(1, 1000) n"""
    )

    async def found(limit: int) -> list[int]:
        epoch = datetime.fromtimestamp(0, UTC)
        rows = await db_samples.between(db, "sb", epoch, epoch + timedelta(seconds=1000), limit=limit)
        return [row.mem_used for row in rows]

    for limit in (1, 7, 100, 999):
        kept = await found(limit)
        assert len(kept) == limit
        assert kept[-1] == 1000
        steps = {after - before for before, after in zip([0, *kept], kept, strict=False)}
        assert steps <= {1000 // limit, 1000 // limit + 1}
    assert len(await found(1000)) == len(await found(5000)) == 1000


async def test_nobody_reads_another_teams(world: World, host: SimulatedAgent) -> None:
    sandbox_id = (await world.new_sandbox())["id"]
    await send(host, [sample(sandbox_id, time.time())])
    other = await bootstrap.bootstrap(world.cp.db, "other@example.com", "another password")
    answer = await world.api.with_key(other.api_key).get(f"/v1/sandboxes/{sandbox_id}/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "sandbox_not_found")
    with pytest.raises(NotFound):
        await samples.between(world.cp, other.team_id, sandbox_id)
    assert await samples.newest(world.cp, other.team_id, [sandbox_id]) == []


async def test_the_newest_of_many(world: World, host: SimulatedAgent) -> None:
    one, two, none = [(await world.new_sandbox())["id"] for _ in range(3)]
    at = time.time()
    await send(host, [sample(one, at - 5), sample(one, at, mem_used=1), sample(two, at - 9, mem_used=2)])
    found = await samples.newest(world.cp, world.admin.team_id, [one, two, none, new_sandbox_id()])
    assert {row.sandbox_id: row.mem_used for row in found} == {one: 1, two: 2}


async def test_old_samples_go_and_one_control_plane_does_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = world.cp.db
    monkeypatch.setattr(reconcile_samples, "BATCH", 40)
    await db.execute(
        """INSERT INTO samples SELECT 'sb', now() - interval '7 days' + n * interval '1 minute', 1, 0, 1, 1, 1, 1, 1
             FROM generate_series(-99, 20) n"""
    )
    async with db.transaction() as tx:  # another one is at it
        assert await db_samples.expire(tx, samples.KEEP_SEC, 1) == 1
        await reconcile_samples.converge(world.cp)
        assert await tx.fetchval("SELECT count(*) FROM samples") == 119
    await reconcile_samples.converge(world.cp)
    assert await stored(db) == 20
