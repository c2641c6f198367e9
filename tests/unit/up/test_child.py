"""Programs that are kept running, and the readiness they announce."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from wrenn_server.linux import child, daemon, notify

READY = "import sys; sys.path[:] = {path!r}\nfrom wrenn_server.linux import notify\nnotify.ready()\n"
PROGRAM = READY.format(path=sys.path) + "import time; time.sleep(600)"


def argv(source: str) -> list[str]:
    return [sys.executable, "-c", source]


async def test_a_killed_program_is_started_again(tmp_path: Path) -> None:
    codes: asyncio.Queue[int] = asyncio.Queue()
    async with child.kept(
        "kept",
        argv(PROGRAM),
        env={},
        directory=tmp_path,
        log=tmp_path / "log",
        ready_timeout=30,
        on_exit=codes.put_nowait,
    ) as kept:
        first = kept.pid
        os.kill(first, signal.SIGKILL)
        assert await codes.get() == -signal.SIGKILL
        await kept.ready.wait()
        assert kept.pid != first
        last = kept.pid
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


async def test_a_program_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(child.ChildFailed, match="no such port"):
        async with child.kept(
            "bad", argv("raise SystemExit('no such port')"),
            env={}, directory=tmp_path, log=tmp_path / "log", ready_timeout=30,
        ):  # fmt: skip
            raise AssertionError("it never was ready")


async def test_ready_says_nothing_without_a_supervisor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify.ready()


async def test_a_daemon_tells_its_starter_and_outlives_it(tmp_path: Path) -> None:
    source = "import os, sys, time; os.write(int(sys.argv[1]), b'%d\\n' % os.getpid()); time.sleep(600)"
    reader = await daemon.launch(lambda fd: [*argv(source), str(fd)], log=tmp_path / "log")
    pid = int(await reader.readline())
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGKILL)
    await daemon.wait(pid)
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended
