"""Work in other namespaces, and the host's clock."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from wrenn_server.linux import netns
from wrenn_server.linux.inotify import Appearance
from wrenn_server.linux.tsc import tsc_khz


def network() -> int:
    return os.stat(f"/proc/self/task/{threading.get_native_id()}/ns/net").st_ino


async def test_only_the_thread_of_the_work_is_moved() -> None:
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    ours = network()
    empty = await netns.in_own_thread(netns.new)

    def work() -> int:
        netns.enter(empty)
        return network()

    there = await netns.in_own_thread(work)
    assert there == os.fstat(empty).st_ino != ours
    assert network() == await asyncio.to_thread(network) == ours
    os.close(empty)


async def test_an_error_of_the_work_is_raised() -> None:
    def fail() -> None:
        raise FileNotFoundError("nothing there")

    with pytest.raises(FileNotFoundError, match="nothing there"):
        await netns.in_own_thread(fail)


async def test_a_cancelled_caller_waits_for_the_end_of_the_work() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()
        ended.set()

    task = asyncio.create_task(netns.in_own_thread(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_a_namespace_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError):
        netns.enter(Path("/run/netns/no-such-namespace"))


async def test_a_file_that_appears_and_one_that_is_there(tmp_path: Path) -> None:
    with Appearance(tmp_path) as appearance:
        waiting = asyncio.create_task(appearance.wait("wanted"))
        (tmp_path / "other").touch()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        (tmp_path / "wanted").touch()
        await asyncio.wait_for(waiting, 5)
        await asyncio.wait_for(appearance.wait("other"), 5)


def test_the_clock_is_measured_alike_twice() -> None:
    first = tsc_khz()
    if first is None:
        pytest.skip("no constant time stamp counter")
    time.sleep(0.01)
    second = tsc_khz()
    assert second is not None
    assert abs(first - second) < first * 0.001
    assert 500_000 < first < 10_000_000
