"""A file that comes chunk by chunk while it is read and written."""

import asyncio
import errno
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wrenn_server.hostagent.storage import chunks, lazy
from wrenn_server.hostagent.storage.chunks import CHUNK, Content
from wrenn_server.hostagent.storage.lazy import LazyFile
from wrenn_server.model.errors import Internal, Unavailable

TAIL = 5000
EMPTY = {1, 4}
"""Chunks of zeroes."""
SIZE = 6 * CHUNK + TAIL


class Source:
    """A store with one file in it."""

    def __init__(self) -> None:
        noise = random.Random(3)
        parts = [noise.randbytes(CHUNK) if n not in EMPTY else bytes(CHUNK) for n in range(6)]
        self.parts = [*parts, noise.randbytes(TAIL)]
        self.data = b"".join(self.parts)
        names = {n: f"{n}".rjust(64, "0") for n in range(7) if n not in EMPTY}
        self.content = Content(size=SIZE, mode=0o600, chunks=names)
        self.asked: list[int] = []
        self.lost: set[int] = set()
        self.gate: Callable[[int], Awaitable[None]] | None = None

    async def fetch(self, name: str) -> bytes:
        number = int(name)
        self.asked.append(number)
        if number in self.lost:
            raise Internal("lost", code="snapshot_damaged")
        if self.gate is not None:
            await self.gate(number)
        return self.parts[number]


class Place:
    def __init__(self, directory: Path) -> None:
        self.path, self.directory = directory / "file", directory / "lazy"
        self.source = Source()
        lazy.prepare(self.path, self.directory, self.source.content, owner=os.getuid())

    def open(self) -> LazyFile:
        return LazyFile.open(self.path, self.directory, self.source.fetch)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_what_is_touched_comes_and_nothing_else(place: Place) -> None:
    file = place.open()
    assert await file.read(CHUNK - 10, 20) == place.source.data[CHUNK - 10 : CHUNK + 10]
    assert await file.read(2 * CHUNK, 1) == place.source.data[2 * CHUNK : 2 * CHUNK + 1]
    assert await file.read(SIZE - 3, 3) == place.source.data[-3:]
    assert place.source.asked == [0, 2, 6]
    await file.close()


async def test_everything_comes_once(place: Place) -> None:
    file = place.open()
    await asyncio.gather(file.fill(), *(file.read(n * CHUNK, 100) for n in range(6)), file.fill())
    assert sorted(place.source.asked) == [0, 2, 3, 5, 6]
    assert file.missing == 0
    assert place.path.read_bytes() == place.source.data
    assert place.path.stat().st_blocks * 512 < SIZE - CHUNK, "holes stay holes"
    await file.close()


async def test_a_write_outlives_the_chunk_that_was_on_its_way(place: Place) -> None:
    gate = asyncio.Event()

    async def wait(_: int) -> None:
        await gate.wait()

    place.source.gate = wait
    file = place.open()
    filling = asyncio.create_task(file.fill())
    writing = asyncio.create_task(file.write(0, b"w" * CHUNK))  # the whole chunk, and still after it
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(filling, writing)
    assert await file.read(0, CHUNK) == b"w" * CHUNK
    await file.close()


async def test_a_store_that_fails_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "FIRST_RETRY", 0.01)
    tries = 0

    async def fail_twice(_: int) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise Unavailable("away")

    place.source.gate = fail_twice
    file = place.open()
    assert await file.read(0, 4) == place.source.data[:4]
    assert tries == 3
    await file.close()


async def test_room_on_the_disk_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "FIRST_RETRY", 0.01)
    write, full = chunks.write, [True, True]

    def find_it_full(descriptor: int, number: int, data: bytes) -> None:
        if full and full.pop():
            raise OSError(errno.ENOSPC, "no space")
        write(descriptor, number, data)

    monkeypatch.setattr(chunks, "write", find_it_full)
    file = place.open()
    assert await file.read(0, 4) == place.source.data[:4]
    assert place.source.asked == [0, 0, 0]
    await file.close()


async def test_a_lost_chunk_is_told_and_the_others_come(place: Place) -> None:
    place.source.lost = {2}
    file = place.open()
    with pytest.raises(Internal, match="lost"):
        await file.fill()
    assert file.missing == CHUNK
    with pytest.raises(Internal, match="lost"):
        await file.read(2 * CHUNK, 1)
    with pytest.raises(Internal, match="lost"):
        await file.write(2 * CHUNK, b"x")
    assert await file.read(3 * CHUNK, 9) == place.source.data[3 * CHUNK : 3 * CHUNK + 9]
    place.source.lost = set()  # somebody has brought it back
    await file.fill()
    assert place.path.read_bytes() == place.source.data
    await file.close()


async def test_what_is_asked_for_at_the_end_is_broken_off(place: Place) -> None:
    async def never(_: int) -> None:
        await asyncio.Event().wait()

    place.source.gate = never
    file = place.open()
    reading = asyncio.create_task(file.read(0, 1))
    while not place.source.asked:  # noqa: ASYNC110 - a turn of the loop
        await asyncio.sleep(0)
    await file.close()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"size":-1,"mode":0,"chunks":{}}'])
def test_a_record_that_makes_no_sense_is_refused(place: Place, damage: bytes) -> None:
    (place.directory / lazy.CONTENT).write_bytes(damage)
    with pytest.raises(OSError, match="cannot be read"):
        place.open()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, SIZE - 1), st.integers(1, CHUNK)),
        st.tuples(st.just("read"), st.integers(0, SIZE - 1), st.integers(1, CHUNK)),
        st.tuples(st.just("die"), st.integers(0, 6), st.integers(0, 1)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_nothing_that_was_written_is_lost_whoever_dies(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Against a file of bytes. An agent dies with a chunk in the file that nothing says of, or just after it was said."""
    asyncio.run(_history(Place(tmp_path_factory.mktemp("lazy")), steps))


async def _history(place: Place, steps: list[tuple[str, int, int]]) -> None:
    model = bytearray(place.source.data)
    file = place.open()
    for number, (step, at, much) in enumerate(steps):
        match step:
            case "write":
                data = bytes([number + 1]) * min(much, SIZE - at)
                await file.write(at, data)
                model[at : at + len(data)] = data
            case "read":
                assert await file.read(at, min(much, SIZE - at)) == model[at : at + much]
            case _:
                was_here = (place.directory / lazy.HERE).read_bytes()
                await file.read(min(at * CHUNK, SIZE - 1), 1)
                await file.close()
                if not much:  # it is in the file, and nothing says so
                    (place.directory / lazy.HERE).write_bytes(was_here)
                file = place.open()
    await file.fill()
    await file.close()
    assert place.path.read_bytes() == model
