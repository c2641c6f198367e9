"""What sandboxes use: asked of guests that may lie or hang, kept while the control plane is away, told once."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator

import pytest
from hostagent.calls import HOST, Signer
from hostagent.control_plane import FakeControlPlane
from hostagent.world import ID, OTHER, World, pause, resume, start

from wrenn_server.hostagent import sampler
from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.guest import meter
from wrenn_server.hostagent.sampler import Sampler, Samples, Sender
from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.linux import interfaces
from wrenn_server.wire.agent import Sample

HONEST = b"""{"ts": 1, "cpu_count": 1, "cpu_used_pct": 12.5, "mem_total": 100000, "mem_used": 60000, "mem_cache": 30000,
 "mem_total_mib": 0, "disk_used": 7000, "disk_total": 9000}"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "INTERVAL", 0.02)
    monkeypatch.setattr(sampler, "SEND_INTERVAL", 0.02)
    monkeypatch.setattr(sampler, "SETTLING", 0.01)
    monkeypatch.setattr(sampler, "LONGEST_PAUSE", 0.02)


@contextlib.asynccontextmanager
async def sampling(world: World) -> AsyncGenerator[tuple[Registry, Samples]]:
    samples = Samples()
    async with (
        world.agent() as registry,
        Sampler(registry.reach, world.slots, world.clock, samples) as sampling,
    ):
        world.listeners.append(sampling.changed)
        yield registry, samples


async def taken(samples: Samples, id: str = ID, number: int = 1) -> Sample:
    """The newest one of a sandbox, when there are so many more of it than now."""
    before = len([sample for sample in samples.batch().samples if sample.sandbox_id == id])
    async with asyncio.timeout(10):
        while len(own := [one for one in samples.batch().samples if one.sandbox_id == id]) < before + number:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # the sampler tells nobody
    return own[-1]


async def test_a_running_sandbox_is_sampled_until_it_is_paused_and_again_when_it_runs(world: World) -> None:
    async with sampling(world) as (registry, samples):
        await registry.start(ID, start())
        world.vm().envd.metrics = HONEST
        found = await taken(samples)
        assert 0 < found.seconds < 10
        assert found == Sample(
            sandbox_id=ID,
            at=world.clock.now(),
            cpu_count=1,
            cpu_used_pct=12.5,
            mem_used=60_000,
            mem_total=100_000,
            mem_cache=30_000,
            disk_used=7_000,
            disk_total=9_000,
            seconds=found.seconds,
        )
        await registry.pause(ID, pause())
        number = len(samples)
        await asyncio.sleep(0.1)
        assert len(samples) == number
        await registry.resume(ID, resume(2))
        await taken(samples)
        await registry.kill(ID, 2)
    assert {task.get_name() for task in asyncio.all_tasks()} & {f"sample {ID}", "ask for metrics"} == set()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            b'{"cpu_used_pct": 1e300, "mem_total": 999999999999999999, "mem_used": 999999999999999999,'
            b' "mem_cache": 999999999999999999, "disk_total": 999999999999999999, "disk_used": 1000000000000}',
            (100.0, 128 << 20, 128 << 20, 128 << 20, 512 << 20, 512 << 20),
        ),
        (
            b'{"cpu_used_pct": -5, "mem_total": -1, "mem_used": 5, "mem_cache": -7, "disk_total": -9, "disk_used": -9}',
            (0.0, 0, 0, 0, 0, 0),
        ),
        (b"{}", (0.0, 0, 0, 0, 0, 0)),
    ],
)
async def test_a_guest_that_lies_stays_within_its_shape(
    world: World, answer: bytes, expected: tuple[float, ...]
) -> None:
    async with sampling(world) as (registry, samples):
        await registry.start(ID, start())
        world.vm().envd.metrics = answer
        sample = await taken(samples, number=2)
        assert (
            sample.cpu_used_pct,
            sample.mem_total,
            sample.mem_used,
            sample.mem_cache,
            sample.disk_total,
            sample.disk_used,
        ) == expected
        assert sample.cpu_count == 1


@pytest.mark.parametrize(
    "answer", [None, b"[1]", b'{"mem_used": "<script>"}', b"{" * 5000, b'{"cpu_used_pct": 1e999}']
)
async def test_a_guest_that_gives_no_answer_delays_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    monkeypatch.setattr(sampler, "AT_ONCE", 1)
    monkeypatch.setattr(sampler, "TURN", 0.02)
    monkeypatch.setattr(meter, "TIMEOUT", 0.2)
    async with sampling(world) as (registry, samples):
        await registry.start(ID, start())
        await registry.start(OTHER, start())
        world.vm(ID).envd.metrics, world.vm(OTHER).envd.metrics = answer, HONEST
        await taken(samples, OTHER, number=10)
        assert all(sample.sandbox_id == OTHER for sample in samples.batch().samples[2:])
        world.vm(ID).envd.metrics = HONEST
        await taken(samples, ID)


def sample(at: float) -> Sample:
    return Sample(
        sandbox_id=ID,
        at=at,
        cpu_count=1,
        cpu_used_pct=0.0,
        mem_used=0,
        mem_total=0,
        mem_cache=0,
        disk_used=0,
        disk_total=0,
    )


def test_the_oldest_give_way_and_what_was_told_is_forgotten() -> None:
    samples = Samples(kept=3)
    for at in range(5):
        samples.add(sample(float(at)))
    batch = samples.batch()
    assert [one.at for one in batch.samples] == [2.0, 3.0, 4.0]
    assert batch.first == 3
    samples.add(sample(5.0))
    samples.done(batch)
    left = samples.batch()
    assert [one.at for one in left.samples] == [5.0]
    assert (left.first, left.epoch) == (6, batch.epoch)
    samples.done(left)
    assert samples.batch().samples == []


async def test_time_without_an_answer_counts_with_the_next_sample_and_bytes_are_counted_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = itertools.count(1000, 10)

    def received_bytes(name: str) -> int:
        return next(sent)

    monkeypatch.setattr(interfaces, "received_bytes", received_bytes)
    async with sampling(world) as (registry, samples):
        await registry.start(ID, start())
        world.vm().envd.metrics = HONEST
        await taken(samples)
        world.vm().envd.metrics = b"[1]"
        await asyncio.sleep(0.3)
        before = len(samples)
        world.vm().envd.metrics = HONEST
        await taken(samples)
        found = samples.batch().samples
    assert {one.egress_bytes for one in found} == {10}
    assert max(one.seconds for one in found[: before + 1]) >= 0.2


async def test_samples_wait_for_a_control_plane_that_is_away(cp: FakeControlPlane) -> None:
    samples = Samples()
    answers = iter([None, (503, {"error": {"code": "unavailable", "message": "later"}}), (204, None)])
    cp.answer = lambda path, body: next(answers, (204, None))
    samples.add(sample(1.0))
    sender = asyncio.create_task(Sender(ControlPlane(cp.url), Signer().credentials(), samples).run())
    try:
        async with asyncio.timeout(10):
            calls = [await cp.calls.get() for _ in range(3)]
            samples.add(sample(2.0))
            calls.append(await cp.calls.get())
    finally:
        sender.cancel()
    assert {(path, fields["x-host-token"]) for path, fields, _ in calls} == {
        (f"/v1/hosts/{HOST}/samples", "t")
    }
    assert [[one["at"] for one in body["samples"]] for _, _, body in calls] == [[1.0], [1.0], [1.0], [2.0]]
    assert [body["first"] for _, _, body in calls] == [1, 1, 1, 2]
    assert len({body["epoch"] for _, _, body in calls}) == 1


async def test_samples_that_are_refused_for_good_hold_up_no_others(cp: FakeControlPlane) -> None:
    samples = Samples()
    cp.answer = lambda path, body: (400, {"error": {"code": "invalid_request", "message": "no"}})
    samples.add(sample(1.0))
    sender = asyncio.create_task(Sender(ControlPlane(cp.url), Signer().credentials(), samples).run())
    try:
        async with asyncio.timeout(10):
            await cp.calls.get()
            cp.answer = lambda path, body: (204, None)
            samples.add(sample(2.0))
            _, _, body = await cp.calls.get()
    finally:
        sender.cancel()
    assert [one["at"] for one in body["samples"]] == [2.0]
