"""Programs in sandboxes through the API. envd is real; its sandbox is this machine."""

import asyncio
import base64
import os
import time
from pathlib import Path

import pytest

from support.simulated import World, eventually
from wrenn_server.controlplane.services import exec as exec_service
from wrenn_server.hostagent.simulated import SimulatedAgent


@pytest.fixture
async def path(world: World, host_with_envd: SimulatedAgent) -> str:
    return f"/v1/sandboxes/{(await world.new_sandbox(envs={'FROM_CREATE': 'yes'}))['id']}"


async def test_output_exit_code_and_duration(world: World, path: str) -> None:
    answer = await world.api.post(
        f"{path}/exec", {"cmd": "/bin/sh", "args": ["-c", "printf out; printf err >&2; exit 3"]}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["stdout"], body["stderr"], body["exit_code"], body["encoding"]) == ("out", "err", 3, "utf-8")
    assert body["cmd"] == "/bin/sh"
    assert 0 <= body["duration_ms"] < 30_000


async def test_environment_and_directory(world: World, path: str, tmp_path: Path) -> None:
    answer = await world.api.post(
        f"{path}/exec",
        {
            "cmd": "sh",
            "args": ["-c", "echo $FROM_CREATE $MINE; pwd"],
            "envs": {"MINE": "a b"},
            "cwd": str(tmp_path),
        },
    )
    assert answer.json()["stdout"] == f"yes a b\n{tmp_path}\n"


async def test_bytes_that_are_not_text(world: World, path: str) -> None:
    answer = await world.api.post(f"{path}/exec", {"cmd": "printf", "args": [r"\377\000ok"]})
    body = answer.json()
    assert body["encoding"] == "base64"
    assert base64.b64decode(body["stdout"]) == b"\xff\0ok"
    assert base64.b64decode(body["stderr"]) == b""


async def test_a_megabyte_arrives_whole(world: World, path: str) -> None:
    answer = await world.api.post(
        f"{path}/exec", {"cmd": "python3", "args": ["-c", "print('x' * (1 << 20), end='')"]}
    )
    assert answer.json()["stdout"] == "x" * (1 << 20)


async def test_a_signal_ends_it(world: World, path: str) -> None:
    answer = await world.api.post(f"{path}/exec", {"cmd": "sh", "args": ["-c", "kill -9 $$"]})
    assert answer.json()["exit_code"] == -1


async def test_the_deadline_kills_the_whole_group(world: World, path: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 300 & echo $! $$ > {pids}; wait"
    started = time.monotonic()
    answer = await world.api.post(f"{path}/exec", {"cmd": "sh", "args": ["-c", script], "timeout_sec": 0.5})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "exec_timeout")
    assert time.monotonic() - started < 5

    async def gone() -> bool:
        return not any(_lives(int(pid)) for pid in pids.read_text().split())

    await eventually(gone)


async def test_too_much_output_kills_it(
    world: World, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_service, "OUTPUT_LIMIT", 100_000)
    pid = tmp_path / "pid"
    answer = await world.api.post(f"{path}/exec", {"cmd": "sh", "args": ["-c", f"echo $$ > {pid}; exec yes"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "output_too_large")

    async def gone() -> bool:
        return not _lives(int(pid.read_text()))

    await eventually(gone)


async def test_background(world: World, path: str) -> None:
    answer = await world.api.post(
        f"{path}/exec", {"cmd": "sleep", "args": ["300"], "background": True, "tag": "nap"}
    )
    assert answer.status_code == 202
    started = answer.json()
    assert started["tag"] == "nap"
    listed = (await world.api.get(f"{path}/processes")).json()["processes"]
    assert [(p["pid"], p["tag"], p["args"]) for p in listed] == [(started["pid"], "nap", ["300"])]
    assert (await world.api.delete(f"{path}/processes/nap")).status_code == 204

    async def gone() -> bool:
        return (await world.api.get(f"{path}/processes")).json()["processes"] == []

    await eventually(gone)
    assert (await world.api.delete(f"{path}/processes/nap")).status_code == 404


async def test_background_gets_a_tag(world: World, path: str) -> None:
    answer = await world.api.post(f"{path}/exec", {"cmd": "sleep", "args": ["300"], "background": True})
    assert answer.json()["tag"].startswith("proc-")
    pid = answer.json()["pid"]
    assert (await world.api.delete(f"{path}/processes/{pid}?signal=SIGTERM")).status_code == 204


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"cmd": "no-such-program"}, "no-such-program"),
        ({"cmd": "true", "cwd": "/no/such/directory"}, "/no/such/directory"),
        ({"cmd": "true", "user": "nobody-at-all"}, "nobody-at-all"),
        ({"cmd": "true", "user": "a b"}, "a b"),
    ],
)
async def test_what_cannot_be_started(world: World, path: str, body: dict[str, object], word: str) -> None:
    answer = await world.api.post(f"{path}/exec", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert word in answer.json()["error"]["message"]


async def test_a_paused_sandbox(world: World, path: str) -> None:
    assert (await world.api.post(f"{path}/exec", {"cmd": "true"})).status_code == 200
    await world.api.post(f"{path}/pause")
    answer = await world.api.post(f"{path}/exec", {"cmd": "true"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_state")
    await world.api.post(f"{path}/resume")
    assert (await world.api.post(f"{path}/exec", {"cmd": "true"})).status_code == 200


async def test_envd_is_gone(world: World, path: str, host_with_envd: SimulatedAgent) -> None:
    held = next(iter(host_with_envd.host.held.values()))
    assert held.envd is not None
    held.envd.process.kill()
    await held.envd.process.wait()
    answer = await world.api.post(f"{path}/exec", {"cmd": "true"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "guest_error")


async def test_many_at_once(world: World, path: str) -> None:
    answers = await asyncio.gather(
        *(world.api.post(f"{path}/exec", {"cmd": "echo", "args": [str(n)]}) for n in range(20))
    )
    assert [answer.json()["stdout"] for answer in answers] == [f"{n}\n" for n in range(20)]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_that_we_can_tell_who_lives() -> None:
    assert _lives(os.getpid())
