"""SIGKILL to each of our programs: sandboxes run on and nothing is lost."""

import os
import signal
import time
from pathlib import Path

import pytest

from support.platforms import RunningPlatform
from wrenn import Sandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
BACK_WITHIN = 3.0
"""Seconds from an agent's restart until its sandboxes answer again."""


def processes(platform: RunningPlatform, module: str) -> list[int]:
    """Pids of this platform's program."""
    found: list[int] = []
    for directory in Path("/proc").iterdir():
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0") if directory.name.isdigit() else []
            environ = (directory / "environ").read_bytes().split(b"\0") if words else []
        except OSError:
            continue
        if module.encode() in words and f"WRENN_DATA_DIR={platform.settings.data_dir}".encode() in environ:
            found.append(int(directory.name))
    return found


def postmaster(platform: RunningPlatform) -> int:
    (pid_file,) = platform.settings.data_dir.glob("postgres/**/postmaster.pid")
    return int(pid_file.read_text().splitlines()[0])


def wait_for_postmaster(platform: RunningPlatform, before: int) -> None:
    """Until another one has finished its recovery: only then it writes `ready` into its pid file."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        files = list(platform.settings.data_dir.glob("postgres/**/postmaster.pid"))
        lines = files[0].read_text().split() if files else []
        if lines and lines[0] != str(before) and lines[-1] == "ready":
            return
        time.sleep(0.02)
    raise AssertionError("PostgreSQL was not started again")


def wait_for_restart(platform: RunningPlatform, module: str, before: list[int]) -> float:
    """When the supervisor has started it again."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if now := [pid for pid in processes(platform, module) if pid not in before]:
            assert len(now) == 1
            return time.monotonic()
        time.sleep(0.01)
    raise AssertionError(f"{module} was not started again")


def answers(sandbox: Sandbox, until: float) -> None:
    """The sandbox runs a command before `until`."""
    while True:
        try:
            assert sandbox.commands.run("echo here", timeout=10).stdout == "here\n"
            return
        except Exception:
            if time.monotonic() > until:
                raise


def test_killed_agent_leaves_sandboxes_running_and_streams_can_be_joined_again(
    platform: RunningPlatform,
) -> None:
    module = "wrenn_server.hostagent.main"
    with Sandbox.create(api_key=platform.api_key, base_url=platform.base_url, timeout=600) as sandbox:
        line = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"
        counter = sandbox.commands.run(line, background=True, timeout=None)
        pid = counter.pid
        before = processes(platform, module)
        os.kill(before[0], signal.SIGKILL)
        restarted = wait_for_restart(platform, module, before)
        answers(sandbox, restarted + BACK_WITHIN)
        joined = sandbox.commands.connect(pid)
        for output in joined:
            assert int(output.text.split()[0]) > 0
            break
        joined.kill()


@pytest.mark.parametrize("what", ["control plane", "PostgreSQL"])
def test_killed_control_plane_or_database_loses_nothing(platform: RunningPlatform, what: str) -> None:
    with Sandbox.create(api_key=platform.api_key, base_url=platform.base_url, timeout=600) as sandbox:
        sandbox.files.write("/tmp/kept", "kept")
        paused = Sandbox.create(api_key=platform.api_key, base_url=platform.base_url, timeout=600)
        paused.pause()
        module = "wrenn_server.controlplane.main"
        if what == "control plane":
            before = processes(platform, module)
            os.kill(before[0], signal.SIGKILL)
            wait_for_restart(platform, module, before)
        else:
            before = [postmaster(platform)]
            os.kill(before[0], signal.SIGKILL)
            wait_for_postmaster(platform, before[0])
        answers(sandbox, time.monotonic() + 20)
        assert sandbox.files.read("/tmp/kept") == "kept"
        deadline = time.monotonic() + 20
        while True:
            try:
                states = {
                    found.id: found.status
                    for found in Sandbox.list(api_key=platform.api_key, base_url=platform.base_url)
                }
                break
            except Exception:
                if time.monotonic() > deadline:
                    raise
        assert states[sandbox.id] == "running"
        assert states[paused.id] == "paused"
        paused.resume()
        assert paused.commands.run("true").ok
        paused.kill()
