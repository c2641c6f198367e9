"""Both versions of control groups: what is written where, and against the kernel that is here."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrenn_server.linux.cgroup import Cgroups, CgroupsUnavailable, Limits
from wrenn_server.linux.process import confined, spawn

LIMITS = Limits(memory_max=256 << 20, pids_max=64, cpus=1.5)


def v2(mount: Path, controllers: str = "cpuset cpu io memory pids", enabled: str = "") -> Path:
    mount.mkdir(exist_ok=True)
    (mount / "cgroup.controllers").write_text(controllers)
    (mount / "cgroup.subtree_control").write_text(enabled)
    return mount


def v1(mount: Path, *controllers: str) -> Path:
    for name in controllers:
        (mount / name).mkdir(parents=True)
        (mount / name / "cgroup.procs").touch()
    return mount


def test_version_2_is_told_by_its_controllers(tmp_path: Path) -> None:
    cgroups = Cgroups.detect(v2(tmp_path))
    assert cgroups.version == 2
    assert set(cgroups.roots.values()) == {tmp_path}


def test_a_hybrid_host_is_version_1(tmp_path: Path) -> None:
    v1(tmp_path, "memory", "pids", "cpu", "cpuacct")
    v2(tmp_path / "unified", controllers="hugetlb")
    cgroups = Cgroups.detect(tmp_path)
    assert cgroups.version == 1
    assert cgroups.roots["memory"] == tmp_path / "memory"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CgroupsUnavailable, match="memory, pids, cpu"):
        Cgroups.detect(tmp_path)
    with pytest.raises(CgroupsUnavailable, match="for cpu"):
        Cgroups.detect(v1(tmp_path, "memory", "pids"))


def test_the_files_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "wrenn").mkdir()
    (tmp_path / "wrenn/cgroup.subtree_control").write_text("memory pids cpu")
    group = Cgroups.detect(v2(tmp_path, enabled="memory pids cpu")).create("wrenn/sb1", LIMITS)
    directory = tmp_path / "wrenn/sb1"
    assert {file.name: file.read_text() for file in directory.iterdir()} == {
        "memory.max": str(256 << 20),
        "pids.max": "64",
        "cpu.max": "150000 100000",
    }
    assert group.procs == [directory / "cgroup.procs"] * 3
    (directory / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.oom_kills() == 1


def test_the_files_of_version_1(tmp_path: Path) -> None:
    group = Cgroups.detect(v1(tmp_path, "memory", "pids", "cpu")).create("wrenn/sb1", LIMITS)
    assert (tmp_path / "memory/wrenn/sb1/memory.limit_in_bytes").read_text() == str(256 << 20)
    assert (tmp_path / "pids/wrenn/sb1/pids.max").read_text() == "64"
    (tmp_path / "memory/wrenn/sb1/memory.oom_control").write_text(
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
    )
    assert group.oom_kills() == 2


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    if os.geteuid() != 0:
        pytest.skip("control groups need root")
    cgroups = Cgroups.detect()
    yield cgroups
    parent = f"wrenn-test-{os.getpid()}"
    for root in set(cgroups.roots.values()):
        (root / parent).rmdir()


@pytest.fixture
def path() -> str:
    return f"wrenn-test-{os.getpid()}/one"


async def test_a_process_is_in_its_group_from_its_first_instruction(cgroups: Cgroups, path: str) -> None:
    group = cgroups.create(path, LIMITS)
    reader, writer = os.pipe()
    script = "cat /proc/self/cgroup; exec sleep 1000"
    process = spawn(confined(["sh", "-c", script], cgroup=group.procs), fds={1: writer})
    os.close(writer)
    try:
        assert path in (await asyncio.to_thread(os.read, reader, 10_000)).decode()
        assert process.pid in group.pids()
        with pytest.raises(FileExistsError):
            cgroups.create(path, LIMITS)
        assert cgroups.children(path.split("/")[0]) == ["one"]
        await group.remove()  # kills what is left
        assert await process.wait() == -signal.SIGKILL
        assert cgroups.children(path.split("/")[0]) == []
        await group.remove()  # idempotent
    finally:
        os.close(reader)
        process.close()


async def test_too_much_memory_is_counted(cgroups: Cgroups, path: str) -> None:
    group = cgroups.create(path, Limits(memory_max=16 << 20, pids_max=8))
    eater = "import sys; print('up', flush=True); x = b'1' * (64 << 20)"
    process = spawn(confined(["python3", "-c", eater], cgroup=group.procs), fds={})
    try:
        assert await process.wait() == -signal.SIGKILL
        assert group.oom_kills() == 1
    finally:
        process.close()
        await group.remove()


async def test_too_many_processes_are_refused(cgroups: Cgroups, path: str, tmp_path: Path) -> None:
    group = cgroups.create(path, Limits(memory_max=64 << 20, pids_max=3))
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    process = spawn(
        confined(["sh", "-c", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & wait"], cgroup=group.procs),
        fds={2: log},
    )
    try:
        assert await process.wait() != 0
        assert b"fork" in os.pread(log, 1000, 0)
    finally:
        os.close(log)
        process.close()
        await group.remove()
