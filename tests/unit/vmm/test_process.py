"""Programs that outlive us."""

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from wrenn_server.linux import scheduler
from wrenn_server.linux.process import Process, User, confined, spawn


async def output(argv: list[str], **options: Any) -> tuple[int | None, str]:
    reader, writer = os.pipe()
    process = spawn(argv, fds={1: writer, 2: writer}, **options)
    os.close(writer)
    try:
        code = await process.wait()
        with os.fdopen(reader) as file:
            return code, file.read()
    finally:
        process.close()


async def test_it_has_a_session_and_nothing_of_ours() -> None:
    os.environ["SECRET_OF_OURS"] = "1"
    try:
        script = "echo $$ $(cut -d' ' -f6 /proc/$$/stat); env; ls /proc/$$/fd | tr '\\n' ' '"
        code, text = await output(["/bin/sh", "-c", script], env={"ONLY": "this"})
    finally:
        del os.environ["SECRET_OF_OURS"]
    lines = text.splitlines()
    assert code == 0
    pid, session = lines[0].split()
    assert pid == session
    assert {line.partition("=")[0] for line in lines[1:-1]} <= {"ONLY", "PWD", "_"}
    # 10 is the shell's own; nothing of ours is among them.
    assert {"0", "1", "2"} <= set(lines[-1].split()) <= {"0", "1", "2", "10"}


async def test_descriptors_get_the_numbers_they_are_wanted_at() -> None:
    first, second = os.pipe(), os.pipe()
    # Crosswise: each source is the other's target.
    process = spawn(
        ["python3", "-c", f"import os; os.write({second[1]}, b'one'); os.write({first[1]}, b'two')"],
        fds={second[1]: first[1], first[1]: second[1]},
    )
    assert await process.wait() == 0
    process.close()
    assert (os.read(first[0], 10), os.read(second[0], 10)) == (b"one", b"two")
    for fd in (*first, *second):
        os.close(fd)


@pytest.mark.parametrize("turn", [None, 0.02])
async def test_a_program_with_turns_of_its_own_interrupts_nobody(turn: float | None) -> None:
    ask = "import os; print(os.sched_getscheduler(0) == os.SCHED_BATCH)"
    # Through a shell: what it starts in its turn is like it.
    code, text = await output(["/bin/sh", "-c", f"{sys.executable} -c '{ask}'; true"], turn=turn)
    assert (code, text) == (0, f"{turn is not None}\n")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


async def test_where_turns_are_forbidden_it_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(policy: int, turn: float) -> None:
        raise PermissionError(errno.EPERM, "sched_setattr: Operation not permitted")

    monkeypatch.setattr(scheduler, "_set", forbidden)
    assert await output(["echo", "alive"], turn=0.02) == (0, "alive\n")


KERNEL = tuple(int(number) for number in os.uname().release.split(".")[:2])


@pytest.mark.skipif(KERNEL < (6, 12), reason="kernels before Linux 6.12 leave turns as they are")
@pytest.mark.skipif(
    not Path("/proc/self/sched").exists(), reason="this kernel does not tell how it schedules"
)
async def test_its_turns_are_as_long_as_it_wants() -> None:
    """As the kernel tells them."""
    code, text = await output(["grep", "se.slice", "/proc/self/sched"], turn=0.02)
    assert (code, text.split()[-1]) == (0, "20000000")
    [ours] = [line for line in Path("/proc/thread-self/sched").read_text().splitlines() if "se.slice" in line]
    assert ours.split()[-1] != "20000000"


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", -9), ("true", 0)])
async def test_the_exit_code_reaches_every_waiter(script: str, code: int) -> None:
    process = spawn(["/bin/sh", "-c", script], fds={})
    assert await asyncio.gather(process.wait(), process.wait()) == [code, code]
    assert await process.wait() == code
    assert not Path(f"/proc/{process.pid}").exists()
    process.kill()  # nothing happens
    process.close()
    process.close()


async def test_a_pid_alone_does_not_name_a_process() -> None:
    process = spawn(["sleep", "1000"], fds={})
    try:
        again = Process.open(process.pid, process.started)
        again.kill(signal.SIGTERM)
        assert await process.wait() == -signal.SIGTERM
        again.close()
        with pytest.raises(ProcessLookupError):
            Process.open(process.pid, process.started)
        with pytest.raises(ProcessLookupError, match="not the one"):
            Process.open(os.getpid(), 1)
    finally:
        process.close()


async def test_a_foreign_process_ends_without_a_code() -> None:
    reader, writer = os.pipe()
    # Its parent lives on, so that it becomes nobody's child but that parent's.
    parent = spawn(["/bin/sh", "-c", "sleep 1000 & echo $!; wait"], fds={1: writer})
    pid = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    process = Process.open(pid)
    process.kill()
    assert await process.wait() is None
    process.close()
    parent.kill()
    await parent.wait()
    parent.close()


def test_a_program_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["/nonexistent/program"], fds={})


def test_the_chain_of_a_confined_program() -> None:
    argv = confined(
        ["qemu", "-m", "1"], user=User(uid=7, gid=8), cgroup=[Path("/sys/a/cgroup.procs"), Path("/sys/b c")]
    )
    assert argv == [
        "/bin/sh", "-c",
        "ulimit -c 0 && echo 0 > /sys/a/cgroup.procs && echo 0 > '/sys/b c' && exec \"$@\"",
        "sh",
        "setpriv", "--reuid", "7", "--regid", "8", "--clear-groups", "--no-new-privs", "--bounding-set=-all",
        "--inh-caps=-all",
        "qemu", "-m", "1",
    ]  # fmt: skip
    assert "--groups" in confined(["x"], user=User(uid=7, gid=8, groups=(104,)))


async def test_a_confined_program_has_no_privileges() -> None:
    if os.geteuid() != 0:
        pytest.skip("dropping privileges needs root")
    code, text = await output(confined(["cat", "/proc/self/status"], user=User(uid=57_001, gid=57_001)))
    assert code == 0
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == ["57001"] * 4
    assert all(int(status[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert status["NoNewPrivs"] == "1"
    assert status["Groups"].split() == []


async def test_a_group_that_cannot_be_joined_stops_the_start() -> None:
    code, text = await output(confined(["echo", "started"], cgroup=[Path("/nonexistent/cgroup.procs")]))
    assert code != 0
    assert "started" not in text
