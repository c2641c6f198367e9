"""The part that both drivers share, without a VM."""

import asyncio
import os
from pathlib import Path
from typing import cast

import pytest

from wrenn_server.hostagent.vmm.base import Place, VmmError
from wrenn_server.hostagent.vmm.console import Tail, make_fifo, open_fifo
from wrenn_server.hostagent.vmm.running import RunningVm
from wrenn_server.linux.cgroup import Cgroup, Limits
from wrenn_server.linux.fake.cgroup import FakeCgroups
from wrenn_server.linux.fake.process import FakeProcess
from wrenn_server.linux.process import Process
from wrenn_server.model.sandbox import Reason

LIMITS = Limits(memory_max=1, pids_max=1)


class Parts:
    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.place = Place(
            id="sb1", directory=directory, uid=1, gid=1, netns=Path("/n"), tap="t", cgroup="wrenn/sb1"
        )
        self.process = FakeProcess()
        self.cgroups = FakeCgroups()
        self.group = self.cgroups.create("wrenn/sb1", LIMITS)
        self.vm = RunningVm(
            self.place,
            cast("Process", self.process),
            cast("Cgroup", self.group),
            Tail(make_fifo(directory / "console")),
            Tail(make_fifo(directory / "log")),
        )


@pytest.fixture
async def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "vm")


async def test_leaving_kills_and_removes(parts: Parts) -> None:
    async with parts.vm:
        pass
    assert parts.process.signals == [9]
    assert parts.process.closed
    assert parts.cgroups.groups == {}
    assert list(parts.place.directory.iterdir()) == []
    assert (await parts.vm.wait()).reason is Reason.USER


async def test_a_detached_vm_stays(parts: Parts) -> None:
    async with parts.vm as vm:
        vm.detach()
    assert parts.process.signals == []
    assert parts.process.closed
    assert list(parts.cgroups.groups) == ["wrenn/sb1"]
    assert sorted(file.name for file in parts.place.directory.iterdir()) == ["console", "log"]


async def test_several_tasks_learn_of_the_end(parts: Parts) -> None:
    async with parts.vm as vm:
        waiting = [asyncio.create_task(vm.wait()) for _ in range(3)]
        parts.group.oom = 1
        parts.process.end(-9)
        ends = await asyncio.gather(*waiting)
        assert {end.reason for end in ends} == {Reason.OOM_KILLED}
        await vm.kill()
        assert parts.process.signals == []  # it had ended by itself, and that stays the reason


async def test_a_waiting_task_can_be_cancelled_alone(parts: Parts) -> None:
    async with parts.vm as vm:
        one, other = asyncio.create_task(vm.wait()), asyncio.create_task(vm.wait())
        await asyncio.sleep(0)
        one.cancel()
        parts.process.end(0)
        assert (await other).reason is Reason.GUEST_SHUTDOWN


async def test_last_words_are_in_the_error(parts: Parts) -> None:
    async with parts.vm as vm:
        log = open_fifo(parts.place.directory / "log")
        os.write(log, b"qemu: could not open disk\n")
        os.close(log)
        parts.process.end(1)
        error = await vm.ended_early("starting", VmmError("connection closed"))
        assert "sb1: starting: the VM process ended with code 1: qemu: could not open disk" in str(error)
