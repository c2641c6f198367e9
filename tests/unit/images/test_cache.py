import asyncio
import os
import stat
import tempfile
from pathlib import Path

import pytest

from wrenn_server.images.cache import Artefact, Cache, is_published, publish


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    root = tmp_path / "cache"
    root.mkdir()
    return Cache(root)


def write(text: str):
    async def build(folder: Path) -> None:
        (folder / "file").write_text(text)

    return build


async def never(folder: Path) -> None:
    raise AssertionError("built again")


def test_key_follows_every_input():
    base = Artefact("kind", {"a": "1", "b": "2"})
    assert base.key == Artefact("kind", {"b": "2", "a": "1"}).key
    assert base.key != Artefact("kind", {"a": "1", "b": "3"}).key
    assert base.key != Artefact("kind", {"a": "12", "b": ""}).key
    assert len(base.key) == 32


async def test_an_artefact_is_built_once(cache: Cache):
    artefact = Artefact("kind", {"input": "1"})
    assert cache.find(artefact) is None
    folder = await cache.get(artefact, write("content"))
    assert (folder / "file").read_text() == "content"
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o444
    assert '"input": "1"' in (folder / "inputs.json").read_text()
    assert await cache.get(artefact, never) == folder == cache.find(artefact)


async def test_the_last_used_of_a_kind_are_kept(cache: Cache):
    first, second, third = (Artefact("kind", {"input": name}) for name in "123")
    other = await cache.get(Artefact("other", {}), write("other"))
    await cache.get(first, write("first"))
    await cache.get(second, write("second"))
    await cache.get(first, never)
    await cache.get(third, write("third"))
    assert [cache.find(artefact) is not None for artefact in (first, second, third)] == [True, False, True]
    assert other.exists()


async def test_a_failed_build_leaves_nothing_and_the_old_artefact(cache: Cache):
    old = await cache.get(Artefact("kind", {"input": "1"}), write("old"))

    async def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    artefact = Artefact("kind", {"input": "2"})
    with pytest.raises(OSError, match="disk full"):
        await cache.get(artefact, fail)
    assert cache.find(artefact) is None
    assert sorted(path.name for path in cache.root.iterdir()) == ["kind"]
    assert [path.name for path in (cache.root / "kind").iterdir()] == [old.name]


async def test_a_cancelled_build_leaves_nothing(cache: Cache):
    building = asyncio.Event()

    async def hang(folder: Path) -> None:
        (folder / "half").write_text("half")
        building.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(cache.get(Artefact("kind", {}), hang))
    await building.wait()
    assert list(cache.root.glob("tmp-*"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(cache.root.iterdir()) == []


async def test_the_next_build_removes_what_a_killed_one_left(cache: Cache):
    leftover = cache.root / "tmp-abc" / "root"
    leftover.mkdir(parents=True)
    (leftover / "file").touch()
    async with cache.lock():
        assert not leftover.parent.exists()


async def test_a_second_builder_waits_and_finds_the_work_done(cache: Cache):
    order: list[str] = []
    waiting = asyncio.Event()

    async def second() -> None:
        waiting.set()
        async with cache.lock():
            order.append("second")

    async with cache.lock():
        task = asyncio.create_task(second())
        await waiting.wait()
        order.append("first")
    await asyncio.wait_for(task, 10)
    assert order == ["first", "second"]


async def test_who_gives_up_waiting_does_not_take_the_lock(cache: Cache):
    async def wait() -> None:
        async with cache.lock():
            raise AssertionError("locked twice")

    async with cache.lock():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(10), cache.lock():
        pass


async def test_publish_replaces_the_name_and_not_the_file(tmp_path: Path):
    old, new, target = tmp_path / "old", tmp_path / "new", tmp_path / "images" / "minimal.ext4"
    old.write_text("old")
    new.write_text("new")
    await publish(old, target)
    assert is_published(old, target)
    assert not is_published(new, target)
    with target.open() as reader:
        await publish(new, target)
        assert reader.read() == "old"
    assert target.read_text() == "new"
    assert target.samefile(new)
    before = os.stat(target).st_ctime_ns
    await publish(new, target)
    assert os.stat(target).st_ctime_ns == before
    assert [path.name for path in target.parent.iterdir()] == ["minimal.ext4"]


async def test_publish_to_another_file_system_copies(tmp_path: Path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        source, target = tmp_path / "image", Path(folder) / "images/image"
        if source.parent.stat().st_dev == Path(folder).stat().st_dev:
            pytest.skip("/dev/shm and the temporary directory are one file system")
        source.write_bytes(bytes(1 << 20) + b"end")
        await publish(source, target)
        assert target.read_bytes() == source.read_bytes()
        assert is_published(source, target)
        source.write_bytes(b"changed")
        assert not is_published(source, target)


def test_nothing_is_published_before_it_is_built(tmp_path: Path):
    assert not is_published(tmp_path / "none", tmp_path / "neither")
