"""Template memory is shared by everybody and changed by nobody."""

import asyncio
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrenn_server.hostagent.vmm import template_memory
from wrenn_server.hostagent.vmm.template_memory import TemplateMemory
from wrenn_server.linux.files import copy_sparse

MIB = 1 << 20


def write_sparse(path: Path, mark: bytes) -> Path:
    """64 MiB with data at 8 MiB and at the very end."""
    with path.open("wb") as file:
        file.seek(8 * MIB)
        file.write(mark * 100)
        file.seek(64 * MIB - 4096)
        file.write(mark * (4096 // len(mark)))
    return path


@pytest.fixture
def cache() -> Iterator[TemplateMemory]:
    cache = TemplateMemory(limit=1 * MIB)
    yield cache
    cache.close()


def open_memfds() -> set[str]:
    return {
        fd
        for fd in os.listdir("/proc/self/fd")
        if "template-memory" in os.path.realpath(f"/proc/self/fd/{fd}")
    }


async def test_nobody_can_change_it(cache: TemplateMemory, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "memory", b"mark")
    async with cache.use(path) as fd:
        assert os.pread(fd, 4, 8 * MIB) == b"mark"
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE)
        # What QEMU does: open it anew for writing, and map it privately.
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        with mmap.mmap(again, 64 * MIB, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as private:
            private[8 * MIB : 8 * MIB + 4] = b"mine"
        os.close(again)
        assert os.pread(fd, 4, 8 * MIB) == b"mark"


async def test_holes_stay_holes(cache: TemplateMemory, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "memory", b"mark")
    async with cache.use(path) as fd:
        assert os.fstat(fd).st_size == 64 * MIB
        assert os.fstat(fd).st_blocks * 512 < 1 * MIB


async def test_it_is_made_once_however_many_ask(
    cache: TemplateMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sparse(tmp_path / "memory", b"mark")
    made: list[Path] = []
    real = template_memory.seal_copy

    def counted(path: Path) -> int:
        made.append(path)
        return real(path)

    monkeypatch.setattr(template_memory, "seal_copy", counted)

    async def use() -> int:
        async with cache.use(path) as fd:
            return fd

    assert len(set(await asyncio.gather(*(use() for _ in range(5))))) == 1
    assert made == [path]


async def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    one, two, three = (write_sparse(tmp_path / name, b"mark") for name in ("one", "two", "three"))
    size = os.stat(one).st_blocks * 512
    cache = TemplateMemory(limit=2 * size)
    for path in (one, two, one, three):
        async with cache.use(path):
            pass
    assert [identity[1] for identity in cache._entries] == [one.stat().st_ino, three.stat().st_ino]
    assert len(open_memfds()) == 2
    cache.close()
    assert open_memfds() == set()


async def test_what_is_in_use_stays_open_beyond_the_limit(tmp_path: Path) -> None:
    one, two = (write_sparse(tmp_path / name, name.encode()) for name in ("one1", "two2"))
    cache = TemplateMemory(limit=1)
    async with cache.use(one) as first, cache.use(two) as second:
        assert (os.pread(first, 4, 8 * MIB), os.pread(second, 4, 8 * MIB)) == (b"one1", b"two2")
        cache.close()
        assert os.pread(first, 4, 8 * MIB) == b"one1"
    assert open_memfds() == set()


async def test_a_snapshot_that_was_replaced_is_read_anew(cache: TemplateMemory, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "memory", b"old!")
    async with cache.use(path) as fd:
        assert os.pread(fd, 4, 8 * MIB) == b"old!"
    write_sparse(tmp_path / "fresh", b"new!").rename(path)
    async with cache.use(path) as fd:
        assert os.pread(fd, 4, 8 * MIB) == b"new!"


async def test_two_names_of_one_file_share_its_memory(cache: TemplateMemory, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "memory", b"mark")
    os.link(path, tmp_path / "paused")
    async with cache.use(path) as one, cache.use(tmp_path / "paused") as other:
        assert one == other


async def test_a_failure_is_not_kept(
    cache: TemplateMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sparse(tmp_path / "memory", b"mark")

    def fail(path: Path) -> int:
        raise OSError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(template_memory, "seal_copy", fail)
        with pytest.raises(OSError, match="no memory"):
            async with cache.use(path):
                pass
    async with cache.use(path) as fd:
        assert os.pread(fd, 4, 8 * MIB) == b"mark"


def test_a_copy_of_nothing_but_a_hole(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as source, (tmp_path / "b").open("w+b") as target:
        source.truncate(5 * MIB)
        assert copy_sparse(source.fileno(), target.fileno()) == 0
        assert os.fstat(target.fileno()).st_size == 5 * MIB
