"""The command line against the platform of scripts: output, exit codes, where the key comes from."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from unit.sdk.fake_platform import KEY, Exchange, Platform

import wrenn
from wrenn.cli import execution, main, output, settings
from wrenn.models import CommandResult

Cli = Callable[..., int]


@pytest.fixture
def cli(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("WRENN_BASE_URL", platform.base_url)
    monkeypatch.setenv("WRENN_API_KEY", KEY)
    monkeypatch.setenv("WRENN_DATA_DIR", "/nowhere")
    monkeypatch.delenv("WRENN_PROXY_DOMAIN", raising=False)
    return lambda *arguments: main.main(arguments)


def text(capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capfd.readouterr()
    return captured.out, captured.err


def test_a_sandbox_s_life(cli: Cli, platform: Platform, capfd: pytest.CaptureFixture[str]) -> None:
    create = ["create", "base", "--vcpus", "2", "-e", "A=1", "-e", "B=x=y", "-m", "job=7", "--timeout", "60"]
    assert cli(*create) == 0
    sandbox_id = text(capfd)[0].strip()
    assert platform.requests[-1].json() == {
        "template": "base",
        "vcpus": 2,
        "timeout_sec": 60,
        "envs": {"A": "1", "B": "x=y"},
        "metadata": {"job": "7"},
    }
    assert cli("list") == 0
    header, row = text(capfd)[0].splitlines()
    assert header.split() == ["ID", "STATUS", "TEMPLATE", "CPUS", "MEMORY", "AGE", "ENDS", "IN", "METADATA"]
    assert row.split()[:6] == [sandbox_id, "running", "base", "2", "512", "MiB"]
    assert row.split()[-2:] == ["never", "job=7"]
    assert cli("pause", sandbox_id) == 0
    assert text(capfd) == ("", "")
    assert cli("pause", sandbox_id) == 6
    assert text(capfd)[1] == "error: the sandbox is paused\n  request: req_fake\n"
    assert cli("resume", sandbox_id, "--json") == 0
    assert json.loads(text(capfd)[0])["status"] == "running"
    assert cli("timeout", sandbox_id, "90") == 0
    assert cli("fork", sandbox_id, "-n", "2") == 0
    forks = text(capfd)[0].split()
    assert len(forks) == 2
    assert cli("snapshot", sandbox_id, "--name", "before") == 0
    assert text(capfd)[0] == "snap_1\n"
    assert cli("rollback", sandbox_id, "before") == 0
    assert cli("url", sandbox_id, "8080") == 0
    assert text(capfd)[0].startswith(f"http://8080-{sandbox_id}.localhost:")
    assert cli("get", sandbox_id) == 0
    shown = text(capfd)[0]
    assert sandbox_id in shown
    assert re.search(r"timeout_sec +90\b", shown)
    assert cli("kill", sandbox_id, *forks) == 0
    assert cli("kill", sandbox_id) == 3
    assert "there is no such sandbox" in text(capfd)[1]
    assert {row["status"] for row in platform.sandboxes.values()} == {"killed"}
    assert "envd_access_token" not in shown


def test_what_ends_it_and_what_it_may_reach(
    cli: Cli, platform: Platform, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--on-timeout", "pause", "--no-pause-memory", "--auto-resume", "--private"]
    rules = [
        "--no-internet",
        "--allow-out",
        "pypi.org",
        "--allow-out",
        "192.0.2.1",
        "--deny-out",
        "192.0.2.0/24",
    ]
    assert cli("create", *options, *rules) == 0
    sandbox_id = text(capfd)[0].strip()
    assert platform.requests[-1].json() == {
        "template": "minimal",
        "on_timeout": "pause",
        "pause_memory": False,
        "auto_resume": True,
        "private": True,
        "network": {"internet": False, "allow_out": ["pypi.org", "192.0.2.1"], "deny_out": ["192.0.2.0/24"]},
    }
    assert cli("pause", sandbox_id, "--no-memory") == 0
    assert platform.requests[-1].json() == {"memory": False}
    assert cli("resume", sandbox_id, "--no-memory") == 0
    assert platform.requests[-1].json() == {"memory": False}


def test_json_is_for_programs(cli: Cli, platform: Platform, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("create", "--json") == 0
    info = json.loads(text(capfd)[0])
    assert (info["status"], info["memory_mb"]) == ("running", 512)
    assert cli("list", "--json") == 0
    [listed] = json.loads(text(capfd)[0])
    assert listed["id"] == info["id"]
    assert "envd_access_token" not in listed


def test_exec_is_the_command(cli: Cli, platform: Platform, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def script(to: Exchange) -> None:
        await to.stdout(b"out\xff\n")
        await to.stderr(b"err\n")
        await to.exit(7)

    platform.commands["a line | of bash"] = platform.commands["last one"] = script
    sandbox_id = platform.add()["id"]
    options = ["-e", "A=1", "--cwd", "/tmp", "-u", "root", "--timeout", "5"]
    assert cli("exec", sandbox_id, *options, "--", "a line | of bash") == 7
    captured = capfdbinary.readouterr()
    assert (captured.out, captured.err) == (b"out\xff\n", b"err\n")
    request = platform.calls("/process.Process/Start")[0]
    assert b'"args":["-l","-c","a line | of bash"],"envs":{"A":"1"},"cwd":"/tmp"' in request.body
    assert request.headers["connect-timeout-ms"] == "5000"
    assert cli("exec", sandbox_id, "--", "prog", "--flag", "last one") == 7
    request = platform.calls("/process.Process/Start")[1]
    assert b'"cmd":"prog","args":["--flag","last one"]' in request.body
    assert "connect-timeout-ms" not in request.headers


def test_run_removes_its_sandbox(cli: Cli, platform: Platform, capfd: pytest.CaptureFixture[str]) -> None:
    async def script(to: Exchange) -> None:
        await to.stdout(b"Linux\n")
        await to.exit()

    platform.commands["uname"] = script
    assert cli("run", "--", "uname") == 0
    assert text(capfd) == ("Linux\n", "")
    [row] = platform.sandboxes.values()
    assert row["status"] == "killed"
    assert cli("run", "--keep", "-t", "base", "--", "uname") == 0
    kept = text(capfd)[1].strip()
    assert platform.sandboxes[kept]["status"] == "running"


def test_exit_codes_of_exec(cli: Cli, platform: Platform, capfd: pytest.CaptureFixture[str]) -> None:
    async def late(to: Exchange) -> None:
        await to.finish({"code": "deadline_exceeded", "message": "late"})

    async def killed(to: Exchange) -> None:
        await to.exit(-1, "signal: killed")

    platform.commands.update(late=late, killed=killed)
    sandbox_id = platform.add()["id"]
    assert cli("exec", sandbox_id, "--", "late") == 124
    assert cli("exec", sandbox_id, "--", "killed") == 137
    assert cli("exec", sandbox_id, "--", "no such program") == 125
    assert cli("exec", "sbnone", "--", "true") == 125
    assert cli("exec", sandbox_id) == 2
    assert "after `--`" in text(capfd)[1]


@pytest.mark.parametrize(
    ("exit_code", "status", "code"),
    [
        (0, "exit status 0", 0),
        (255, "exit status 255", 255),
        (-1, "signal: terminated", 143),
        (-1, "signal: segmentation fault (core dumped)", 139),
        (-1, "signal: unheard of", 128),
    ],
)
def test_signals_become_shell_codes(exit_code: int, status: str, code: int) -> None:
    result = CommandResult(exit_code=exit_code, status=status, stdout_bytes=b"", stderr_bytes=b"", pid=1)
    assert execution.code_of(result) == code


PROGRAM = ["-m", "wrenn.cli.main"]
# A signal goes to another thread, as if it came just before the main thread's system call.
MISSED = """
import signal, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
from wrenn.cli.main import main
sys.exit(main())
"""


def process(*arguments: str, program: list[str] = PROGRAM) -> "subprocess.Popen[bytes]":
    """The command line in a process of its own, for what concerns its real input and its signals."""
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.usefixtures("cli")
def test_exec_feeds_input(platform: Platform) -> None:
    async def cat(to: Exchange) -> None:
        await platform.stdin_closed.wait()
        await to.stdout(bytes(platform.stdin))
        await to.exit()

    platform.commands["cat"] = cat
    data = os.urandom(300_000)
    with process("exec", "-i", platform.add()["id"], "--", "cat") as child:
        out, err = child.communicate(data, timeout=30)
    assert (out, err, child.returncode) == (data, b"", 0)


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize("program", [PROGRAM, ["-c", MISSED]], ids=["in time", "missed by the main thread"])
def test_an_interrupt_kills_the_command(platform: Platform, program: list[str]) -> None:
    async def runs(to: Exchange) -> None:
        await to.stdout(b"started\n")
        await platform.killed.wait()
        await to.exit(-1, "signal: killed")

    platform.commands["runs"] = runs
    with process("exec", platform.add()["id"], "--", "runs", program=program) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
        assert child.stderr is not None
        assert child.stderr.read() == b""
    assert platform.killed.is_set()


def test_cp(cli: Cli, platform: Platform, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def stat(to: Exchange) -> None:
        path = to.request.json()["path"]
        if path not in platform.files and path != "dir":
            await to.answer(404, {"code": "not_found", "message": "no"})
            return
        kind = "FILE_TYPE_DIRECTORY" if path == "dir" else "FILE_TYPE_FILE"
        await to.answer(200, {"entry": {"name": path, "path": path, "type": kind}})

    platform.routes["POST /filesystem.Filesystem/Stat"] = stat
    sandbox_id = platform.add()["id"]
    data = os.urandom(100_000)
    source = tmp_path / "in.bin"
    source.write_bytes(data)
    assert cli("cp", str(source), f"{sandbox_id}:a/b.bin") == 0
    assert cli("cp", str(source), f"{sandbox_id}:dir") == 0
    assert cli("cp", str(source), f"{sandbox_id}:") == 0
    assert platform.files == {"a/b.bin": data, "dir/in.bin": data, "in.bin": data}
    assert cli("cp", f"{sandbox_id}:a/b.bin", str(tmp_path)) == 0
    assert (tmp_path / "b.bin").read_bytes() == data
    assert cli("cp", f"{sandbox_id}:a/b.bin", str(tmp_path / "c")) == 0
    assert (tmp_path / "c").read_bytes() == data
    assert cli("cp", f"{sandbox_id}:a/b.bin", "-") == 0
    assert capfdbinary.readouterr().out == data
    assert cli("cp", f"{sandbox_id}:none", str(tmp_path / "d")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.bin", "c", "in.bin"], "no half files"
    assert cli("cp", f"{sandbox_id}:dir", str(tmp_path)) == 2
    assert cli("cp", str(tmp_path), f"{sandbox_id}:x") == 2
    assert cli("cp", "a", "b") == 2
    assert cli("cp", str(tmp_path / "none"), f"{sandbox_id}:x") == 1


def test_wrong_command_lines(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("frobnicate") == 2
    assert cli("create", "--vcpus", "many") == 2
    assert cli("create", "-e", "novalue") == 2
    assert cli("kill") == 2
    assert "'novalue' is not NAME=VALUE" in text(capfd)[1]


def test_errors_have_their_codes(
    cli: Cli, platform: Platform, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli("create", "unheard-of") == 3
    assert cli("get", "sb" + "z" * 20) == 3
    monkeypatch.setenv("WRENN_API_KEY", "wrn_wrong")
    assert cli("list") == 4
    monkeypatch.delenv("WRENN_API_KEY")
    text(capfd)
    assert cli("list") == 4
    assert "WRENN_API_KEY" in text(capfd)[1]
    monkeypatch.setenv("WRENN_API_KEY", KEY)
    assert cli("list", "--base-url", "http://127.0.0.1:1") == 5
    assert "wrenn up" in text(capfd)[1]
    assert cli("list", "--base-url", "nonsense") == 4


def test_the_file_of_wrenn_up(tmp_path: Path) -> None:
    file = tmp_path / "wrenn.env"
    file.write_text(
        f"# made by wrenn up\nWRENN_BASE_URL=http://127.0.0.1:8000\nWRENN_API_KEY={KEY}\nOTHER=1\n"
    )
    filed = {"WRENN_BASE_URL": "http://127.0.0.1:8000", "WRENN_API_KEY": KEY}
    here = {"WRENN_DATA_DIR": str(tmp_path)}
    assert settings.environment(here, base_url=None, env_file=None) == filed
    assert settings.environment({}, base_url=None, env_file=file) == filed
    own = {"WRENN_API_KEY": "wrn_own"}
    assert settings.environment({**here, **own}, base_url=None, env_file=None) == {**filed, **own}
    for other in ("http://elsewhere:8000", "http://127.0.0.1:8001"):
        assert settings.environment(here, base_url=other, env_file=None) == {}, "its key is not for others"
    assert settings.environment(here, base_url="http://127.0.0.1:8000/", env_file=None) == filed
    assert settings.environment({"WRENN_DATA_DIR": "/nowhere"}, base_url=None, env_file=None) == {}
    with pytest.raises(wrenn.ConfigError, match="cannot read"):
        settings.environment({}, base_url=None, env_file=tmp_path / "none")


def test_the_server_adds_its_commands(capfd: pytest.CaptureFixture[str]) -> None:
    def doctor() -> int:
        """Look at this machine."""
        return 9

    app = main.build([("doctor", doctor)])
    assert app(["doctor"], result_action="return_value") == 9
    app(["--help"], result_action="return_value")
    shown = text(capfd)[0]
    assert "Look at this machine" in shown
    assert "create" in shown


def test_a_time_span_and_a_failed_sandbox(capfd: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    info = wrenn.SandboxInfo(
        id="sb",
        status="failed",
        template="minimal",
        vcpus=1,
        memory_mb=512,
        disk_mb=5120,
        created_at=now - timedelta(hours=3),
        expires_at=now + timedelta(minutes=5, seconds=1),
        reason="kernel_panic",
        console="Kernel panic [red]\x1b]0;not syncing\x07\n",
    )
    output.write_table([info], now)
    assert text(capfd)[0].splitlines()[1].split()[-2:] == ["3h", "5m"]
    output.write_details(info)
    shown = text(capfd)[0]
    assert "kernel_panic" in shown
    assert "[red]\ufffd]0;not syncing\ufffd" in shown, "a guest's text is neither markup nor control"
    assert [output.span(seconds) for seconds in (-3, 59, 3599, 7200, 200_000)] == [
        "0s",
        "59s",
        "59m",
        "2h",
        "2d",
    ]
