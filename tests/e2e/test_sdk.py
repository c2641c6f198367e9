"""The Python SDK against a whole platform with real virtual machines."""

import hashlib
import io
import os
import time
from collections.abc import Iterator

import pytest

import wrenn
from support.platforms import RunningPlatform
from wrenn import Client, Sandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

COUNTER = "i=0; while true; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done"


@pytest.fixture(scope="module")
def client(platform: RunningPlatform) -> Iterator[Client]:
    with Client(base_url=platform.base_url, api_key=platform.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def sandbox(client: Client) -> Iterator[Sandbox]:
    """For tests that leave nothing behind in it."""
    with Sandbox.create(
        client=client, timeout=600, envs={"GREETING": "hello"}, metadata={"of": "test_sdk"}
    ) as one:
        yield one


def count(sandbox: Sandbox) -> int:
    return int(sandbox.files.read("/tmp/count"))


def start_counter(sandbox: Sandbox) -> None:
    sandbox.commands.run(COUNTER, background=True, timeout=None).disconnect()
    wait_for_more(sandbox, 0)


def wait_for_more(sandbox: Sandbox, than: int) -> int:
    """The counter's value once it is past a number."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if (value := count(sandbox)) > than:
                return value
        except wrenn.PathNotFoundError:
            pass
    raise AssertionError(f"the counter does not get past {than}")


def test_create_gives_a_usable_sandbox(sandbox: Sandbox) -> None:
    info = sandbox.info()
    assert (info.status, info.template, info.metadata) == ("running", "minimal", {"of": "test_sdk"})
    assert sandbox.is_running()
    result = sandbox.commands.run("echo $GREETING from $(whoami); pwd; uname -s")
    assert result.stdout == "hello from user\n/home/user\nLinux\n"
    assert (result.stderr, result.exit_code) == ("", 0)


def test_output_streams_while_the_command_runs(sandbox: Sandbox) -> None:
    """The command goes on only when its first output has been seen here."""
    seen: list[str] = []

    def answer(text: str) -> None:
        seen.append(text)
        if "ready" in text:
            sandbox.files.write("/tmp/go", "")

    result = sandbox.commands.run(
        "echo ready; until [ -e /tmp/go ]; do sleep 0.02; done; echo done; echo err >&2; rm /tmp/go",
        on_stdout=answer,
        on_stderr=seen.append,
    )
    assert result.stdout == "ready\ndone\n"
    assert "err\n" in seen


def test_exit_codes(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("exit 7").exit_code == 7
    assert sandbox.commands.run("true").ok
    with pytest.raises(wrenn.CommandExitError, match="nothing here") as caught:
        sandbox.commands.run("echo nothing here >&2; exit 1", check=True)
    assert caught.value.result.exit_code == 1
    result = sandbox.commands.run("kill -9 $$")
    assert (result.exit_code, result.status) == (-1, "signal: killed")


def test_programs_without_a_shell(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("printf", args=["%s|", "a b", "$HOME", "*"], cwd="/", user="root")
    assert result.stdout == "a b|$HOME|*|"
    assert sandbox.commands.run("id -un; pwd", user="root", cwd="/etc").stdout == "root\n/etc\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {"cmd": "no-such-program", "args": []},
        {"cmd": "true", "cwd": "/no/such/directory"},
    ],
)
def test_a_command_that_cannot_start(sandbox: Sandbox, arguments: dict[str, object]) -> None:
    with pytest.raises(wrenn.InvalidRequestError):
        sandbox.commands.run(**arguments)  # pyright: ignore[reportArgumentType, reportCallIssue] varied on purpose
    with pytest.raises(wrenn.UnauthorizedError, match="invalid username"):
        sandbox.commands.run("true", user="nobody-of-that-name")


def test_input(sandbox: Sandbox) -> None:
    data = os.urandom(300_000)
    digest = hashlib.sha256(data).hexdigest()
    assert sandbox.commands.run("sha256sum", stdin=data).stdout.split()[0] == digest
    assert sandbox.commands.run("cat", stdin=data).stdout_bytes == data
    assert sandbox.commands.run("cat").stdout == "", "no input is empty input"
    assert sandbox.commands.run("true", stdin=data).ok
    with sandbox.commands.run("cat", background=True, stdin=True) as handle:
        handle.send_stdin("äö\n")
        assert next(handle).text == "äö\n"
        handle.close_stdin()
        assert handle.wait().exit_code == 0


def test_output_is_whole_and_byte_exact(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("seq 1 200000")
    assert result.stdout == "".join(f"{number}\n" for number in range(1, 200_001))
    assert sandbox.commands.run(r"printf '\xff\x00\xe2\x82'").stdout_bytes == b"\xff\x00\xe2\x82"


def test_the_deadline_kills_the_whole_group(sandbox: Sandbox) -> None:
    began = time.monotonic()
    with pytest.raises(wrenn.CommandTimeoutError) as caught:
        sandbox.commands.run("echo before; sleep 98765 & sleep 98765", timeout=1)
    assert time.monotonic() - began < 10
    assert caught.value.result.stdout == "before\n"
    assert sandbox.commands.run("pgrep -f 'sleep 9876[5]'").exit_code == 1, "nothing of it is left"


def test_background_list_connect_kill(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("echo started; sleep 1000", background=True, timeout=None, tag="sleeper")
    assert next(handle).text == "started\n"
    handle.disconnect()
    [process] = [process for process in sandbox.commands.list() if process.tag == "sleeper"]
    assert process.pid == handle.pid
    again = sandbox.commands.connect("sleeper")
    assert again.pid == handle.pid
    assert sandbox.commands.kill(handle.pid)
    assert again.wait().status == "signal: killed"
    assert not sandbox.commands.kill(handle.pid)
    with pytest.raises(wrenn.ProcessNotFoundError):
        sandbox.commands.connect(999_999)


def test_files_round_trip(sandbox: Sandbox) -> None:
    binary = os.urandom(3_000_000)
    assert sandbox.files.write("dir/ä b.txt", "text €\n") == "/home/user/dir/ä b.txt"
    assert sandbox.files.read("dir/ä b.txt") == "text €\n"
    sandbox.files.write("/tmp/binary", io.BytesIO(binary))
    assert sandbox.files.read_bytes("/tmp/binary") == binary
    copy = io.BytesIO()
    assert sandbox.files.download("/tmp/binary", copy) == len(binary)
    assert copy.getvalue() == binary
    assert (
        sandbox.commands.run("sha256sum /tmp/binary").stdout.split()[0] == hashlib.sha256(binary).hexdigest()
    )
    sandbox.files.write("empty", b"")
    assert sandbox.files.read_bytes("empty") == b""
    sandbox.files.write("/root/secret", "x", user="root")
    assert sandbox.files.stat("/root/secret", user="root").owner == "root"
    with pytest.raises(wrenn.InvalidRequestError):
        sandbox.files.read("/etc")
    with pytest.raises(wrenn.PathNotFoundError):
        sandbox.files.read("/no/such/file")
    assert len(sandbox.files.read("/proc/sys/kernel/random/boot_id")) == 37


def test_directories(sandbox: Sandbox) -> None:
    assert sandbox.files.make_dir("tree/one/two")
    assert not sandbox.files.make_dir("tree/one/two")
    sandbox.files.write("tree/a.txt", "12345")
    assert [entry.path for entry in sandbox.files.list("tree", depth=3)] == [
        "/home/user/tree/a.txt",
        "/home/user/tree/one",
        "/home/user/tree/one/two",
    ]
    file = sandbox.files.stat("tree/a.txt")
    assert (file.name, file.type, file.size, file.mode, file.owner) == ("a.txt", "file", 5, 0o644, "user")
    assert sandbox.files.rename("tree/a.txt", "tree/b/c.txt").path == "/home/user/tree/b/c.txt"
    assert not sandbox.files.exists("tree/a.txt")
    sandbox.files.remove("tree")
    sandbox.files.remove("tree")
    assert not sandbox.files.exists("tree")
    with pytest.raises(wrenn.PathNotFoundError):
        sandbox.files.list("tree")


def test_pause_and_resume_keep_a_running_counter(client: Client) -> None:
    with Sandbox.create(client=client, timeout=600) as sandbox:
        start_counter(sandbox)
        before = count(sandbox)
        assert sandbox.pause().status == "paused"
        assert not sandbox.is_running()
        with pytest.raises(wrenn.SandboxNotRunningError) as caught:
            sandbox.commands.run("true")
        assert "paused" in str(caught.value)
        with pytest.raises(wrenn.ConflictError):
            sandbox.pause()
        again = Sandbox.connect(sandbox.id, client=client)
        assert again.resume().status == "running"
        after = count(sandbox)
        assert before <= after < before + 100, "it went on from where it was"
        wait_for_more(sandbox, after)


def test_forks_are_independent(client: Client) -> None:
    with Sandbox.create(client=client, timeout=600) as sandbox:
        start_counter(sandbox)
        sandbox.files.write("who", "parent")
        before = count(sandbox)
        forks = sandbox.fork(2, metadata={"of": "fork"})
        try:
            for number, fork in enumerate(forks):
                assert wait_for_more(fork, before) > before, "its processes go on"
                assert fork.files.read("who") == "parent"
                fork.files.write("who", f"fork {number}")
            assert [fork.files.read("who") for fork in forks] == ["fork 0", "fork 1"]
            assert sandbox.files.read("who") == "parent"
            wait_for_more(sandbox, count(sandbox))
            found = {info.id for info in Sandbox.list(metadata={"of": "fork"}, client=client)}
            assert found == {fork.id for fork in forks}
            secrets = {
                one.commands.run("head -c16 /dev/urandom | od -An -tx1", check=True).stdout
                for one in (sandbox, *forks)
            }
            assert len(secrets) == 3
        finally:
            for fork in forks:
                fork.kill()


def test_list_and_kill(client: Client) -> None:
    sandbox = Sandbox.create(client=client, timeout=600, metadata={"of": "kill"})
    assert [info.id for info in Sandbox.list(metadata={"of": "kill"}, client=client)] == [sandbox.id]
    assert sandbox.id in {info.id for info in Sandbox.list(status="running", client=client)}
    assert sandbox.kill()
    assert not sandbox.kill()
    assert Sandbox.list(metadata={"of": "kill"}, client=client) == []
    with pytest.raises(wrenn.SandboxNotRunningError):
        sandbox.commands.run("true")


def test_killed_while_a_command_runs(client: Client) -> None:
    sandbox = Sandbox.create(client=client, timeout=600)
    handle = sandbox.commands.run("echo started; sleep 1000", background=True, timeout=None)
    assert next(handle).text == "started\n"
    began = time.monotonic()
    sandbox.kill()
    with pytest.raises(wrenn.SandboxNotRunningError):
        handle.wait()
    assert time.monotonic() - began < 10


def test_the_timeout_ends_it(client: Client) -> None:
    with Sandbox.create(client=client, timeout=600) as sandbox:
        info = sandbox.set_timeout(2)
        assert info.timeout_sec == 2
        assert info.expires_at is not None
        end = time.monotonic() + 60
        while sandbox.is_running():
            assert time.monotonic() < end
            time.sleep(0.2)


def test_ports_are_reached(sandbox: Sandbox) -> None:
    """By header, since this machine's resolver need not know names below localhost."""
    with sandbox.commands.run(
        "python3 -u -m http.server 8080 --directory /etc", background=True, timeout=None
    ) as server:
        headers = {"E2b-Sandbox-Id": sandbox.id, "E2b-Sandbox-Port": "8080"}
        end = time.monotonic() + 30
        while True:
            try:
                body, _ = sandbox.client.transport.fetch("GET", "/hostname", headers=headers)
                break
            except wrenn.PortNotOpenError:
                assert time.monotonic() < end
        assert body.decode() == sandbox.files.read("/etc/hostname")
        server.kill()
    assert sandbox.url(8080).startswith("http://8080-" + sandbox.id)


def test_bad_input_is_told_and_leaves_nothing(client: Client) -> None:
    before = len(Sandbox.list(client=client))
    with pytest.raises(wrenn.TemplateNotFoundError):
        Sandbox.create("no-such-template", client=client)
    for bad in ({"vcpus": 0}, {"memory_mb": 1}, {"disk_mb": 10**9}, {"timeout": -1}):
        with pytest.raises(wrenn.InvalidRequestError) as caught:
            Sandbox.create(client=client, **bad)  # pyright: ignore[reportArgumentType] varied on purpose
        assert caught.value.request_id
    with pytest.raises(wrenn.SandboxNotFoundError):
        Sandbox.connect("sb" + "0" * 20, client=client)
    with pytest.raises(wrenn.UnauthorizedError):
        Sandbox.list(base_url=client.config.base_url, api_key="wrn_" + "0" * 40)
    assert len(Sandbox.list(client=client)) == before


def test_a_long_silence_is_no_end(platform: RunningPlatform) -> None:
    """Keep-alives tell a quiet command from a dead sandbox."""
    timeouts = wrenn.Timeouts(silence=3, keepalive=1)
    with (
        Client(base_url=platform.base_url, api_key=platform.api_key, timeouts=timeouts) as client,
        Sandbox.create(client=client, timeout=600) as sandbox,
    ):
        assert sandbox.commands.run("sleep 5; echo awake", timeout=60).stdout == "awake\n"
