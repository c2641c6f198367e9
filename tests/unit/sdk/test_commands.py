"""Commands: streaming, results, ends of all kinds, input."""

import asyncio
import struct
import threading

import pytest
from unit.sdk.fake_platform import KEY, Exchange, Platform

import wrenn
from wrenn import Client, Sandbox, Timeouts


async def hello(to: Exchange) -> None:
    await to.stdout(b"hi\n")
    await to.stderr(b"oh\n")
    await to.exit()


async def true(to: Exchange) -> None:
    await to.exit()


def test_run_gives_output_and_exit_code(platform: Platform, sandbox: Sandbox) -> None:
    platform.commands["echo hi"] = hello
    result = sandbox.commands.run("echo hi", envs={"A": "1"}, cwd="/tmp", user="root", timeout=7, tag="t")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == ("hi\n", "oh\n", 0, True)
    assert (result.pid, result.status) == (42, "exit status 0")
    [request] = platform.calls("/process.Process/Start")
    assert request.body[5:] == (
        b'{"process":{"cmd":"/bin/bash","args":["-l","-c","echo hi"],"envs":{"A":"1"},"cwd":"/tmp"},'
        b'"tag":"t","stdin":false}'
    )
    expected = {
        "e2b-sandbox-id": sandbox.id,
        "e2b-sandbox-port": "49983",
        "x-access-token": "agent-token-of-this-sandbox",
        "content-type": "application/connect+json",
        "connect-protocol-version": "1",
        "connect-timeout-ms": "7000",
        "authorization": "Basic cm9vdDo=",
        "keepalive-ping-interval": "20",
    }
    assert {name: request.headers.get(name) for name in expected} == expected


def test_a_program_with_arguments_runs_without_a_shell(platform: Platform, sandbox: Sandbox) -> None:
    platform.commands["a b"] = true
    sandbox.commands.run("python3", args=["-c", "a b"], timeout=None)
    [request] = platform.calls("/process.Process/Start")
    assert request.body[5:] == b'{"process":{"cmd":"python3","args":["-c","a b"]},"stdin":false}'
    assert "connect-timeout-ms" not in request.headers


def test_output_arrives_while_the_command_runs(platform: Platform, sandbox: Sandbox) -> None:
    async def waits(to: Exchange) -> None:
        await to.stdout(b"first")
        await platform.release.wait()  # set by the callback: it has seen the first piece
        await to.stdout(b"second")
        await to.exit()

    platform.commands["waits"] = waits
    pieces: list[str] = []

    def seen(text: str) -> None:
        pieces.append(text)
        platform.let_go()

    assert sandbox.commands.run("waits", on_stdout=seen).stdout == "firstsecond"
    assert pieces == ["first", "second"]


def test_characters_split_over_pieces_come_whole(platform: Platform, sandbox: Sandbox) -> None:
    async def split(to: Exchange) -> None:
        for byte in "aä€😀".encode():
            await to.stdout(bytes([byte]))
        await to.stdout(b"\xff \xe2\x82")
        await to.exit()

    platform.commands["split"] = split
    pieces: list[str] = []
    result = sandbox.commands.run("split", on_stdout=pieces.append)
    assert pieces == ["a", "ä", "€", "😀", "\ufffd ", "\ufffd"]
    assert result.stdout == "aä€😀\ufffd \ufffd"
    assert result.stdout_bytes == "aä€😀".encode() + b"\xff \xe2\x82"


def test_envelopes_may_be_cut_anywhere(platform: Platform, sandbox: Sandbox) -> None:
    async def cut(to: Exchange) -> None:
        payload = b'{"event":{"data":{"stdout":"aGkK"}}}'
        for byte in struct.pack(">BI", 0, len(payload)) + payload:
            await to.raw(bytes([byte]))
        await to.exit()

    platform.commands["cut"] = cut
    assert sandbox.commands.run("cut").stdout == "hi\n"


def test_an_exit_code_raises_only_with_check(platform: Platform, sandbox: Sandbox) -> None:
    async def fails(to: Exchange) -> None:
        await to.stderr(b"no such thing\n")
        await to.exit(3)

    platform.commands["fails"] = fails
    assert sandbox.commands.run("fails").exit_code == 3
    with pytest.raises(wrenn.CommandExitError, match="exit status 3: no such thing") as caught:
        sandbox.commands.run("fails", check=True)
    assert caught.value.result.exit_code == 3


def test_a_signal_is_exit_code_minus_one(platform: Platform, sandbox: Sandbox) -> None:
    async def dies(to: Exchange) -> None:
        await to.exit(-1, "signal: killed")

    platform.commands["dies"] = dies
    result = sandbox.commands.run("dies")
    assert (result.exit_code, result.status, result.ok) == (-1, "signal: killed", False)
    assert result.error is None  # what only repeats the status is no reason


def test_the_deadline_keeps_the_output(platform: Platform, sandbox: Sandbox) -> None:
    async def slow(to: Exchange) -> None:
        await to.stdout(b"so far")
        await to.finish({"code": "deadline_exceeded", "message": "the request's deadline has passed"})

    platform.commands["slow"] = slow
    with pytest.raises(wrenn.CommandTimeoutError, match=r"after 0\.5 s") as caught:
        sandbox.commands.run("slow", timeout=0.5)
    assert caught.value.result.stdout == "so far"


def test_a_start_that_fails_says_why(sandbox: Sandbox) -> None:
    with pytest.raises(wrenn.InvalidRequestError, match="error starting process 'nothing'"):
        sandbox.commands.run("nothing")


def test_a_keep_alive_is_no_output(platform: Platform, sandbox: Sandbox) -> None:
    async def quiet(to: Exchange) -> None:
        await to.event(keepalive={})
        await to.exit()

    platform.commands["quiet"] = quiet
    assert sandbox.commands.run("quiet").stdout == ""


def test_silence_ends_the_wait(platform: Platform) -> None:
    async def silent(to: Exchange) -> None:
        await platform.release.wait()

    platform.commands["silent"] = silent
    timeouts = Timeouts(silence=0.2)
    with (
        Client(base_url=platform.base_url, api_key=KEY, timeouts=timeouts) as client,
        Sandbox.create(client=client) as sandbox,
        pytest.raises(wrenn.RequestTimeoutError, match="no answer"),
    ):
        sandbox.commands.run("silent", timeout=None)


@pytest.mark.parametrize("ends", ["abort", "early"])
def test_a_broken_stream_of_a_running_sandbox(platform: Platform, sandbox: Sandbox, ends: str) -> None:
    async def breaks(to: Exchange) -> None:
        await to.stdout(b"x")
        if ends == "abort":
            to.abort()
        else:  # a clean end of the body, without the envelope that ends the stream
            to.writer.write(b"0\r\n\r\n")

    platform.commands["breaks"] = breaks
    with pytest.raises(wrenn.ConnectionLostError):
        sandbox.commands.run("breaks")


def test_killed_in_the_middle(platform: Platform, sandbox: Sandbox) -> None:
    async def killed(to: Exchange) -> None:
        platform.sandboxes[sandbox.id].update(status="failed", reason="oom_killed")
        to.abort()

    platform.commands["killed"] = killed
    with pytest.raises(wrenn.SandboxNotRunningError, match=r"is failed \(oom_killed\)") as caught:
        sandbox.commands.run("killed")
    assert caught.value.sandbox is not None
    assert caught.value.sandbox.reason == "oom_killed"


def test_a_paused_sandbox_says_what_to_do(platform: Platform, sandbox: Sandbox) -> None:
    sandbox.pause()
    with pytest.raises(wrenn.SandboxNotRunningError, match="is paused") as caught:
        sandbox.commands.run("true")
    assert caught.value.hint == "resume() it first"


@pytest.mark.parametrize(
    "junk",
    [
        struct.pack(">BI", 0, 2**31),
        struct.pack(">BI", 0, 4 * 1024 * 1024 + 1),
        struct.pack(">BI", 1, 2) + b"{}",
        struct.pack(">BI", 0, 3) + b"{{{",
        struct.pack(">BI", 0, 3) + b'"\xff"',
        struct.pack(">BI", 0, 2) + b"[]",
        struct.pack(">BI", 2, 2) + b"{}more",
        struct.pack(">BI", 2, 2) + b"{}",  # the end of the stream, but not of the command
    ],
)
def test_a_hostile_agent_gets_no_further(platform: Platform, sandbox: Sandbox, junk: bytes) -> None:
    async def hostile(to: Exchange) -> None:
        await to.raw(junk)
        to.writer.write(b"0\r\n\r\n")

    platform.commands["hostile"] = hostile
    with pytest.raises(wrenn.ProtocolError):
        sandbox.commands.run("hostile")


def test_too_much_output_keeps_the_end(platform: Platform, sandbox: Sandbox) -> None:
    async def much(to: Exchange) -> None:
        for number in range(100):
            await to.stdout(b"%03d|" % number)
        await to.exit()

    platform.commands["much"] = much
    pieces: list[str] = []
    result = sandbox.commands.run("much", max_output=10, on_stdout=pieces.append)
    assert (result.stdout, result.truncated) == ("7|098|099|", True)
    assert len(pieces) == 100


def test_input_is_sent_whole_and_closed(platform: Platform, sandbox: Sandbox) -> None:
    async def cat(to: Exchange) -> None:
        await platform.stdin_closed.wait()
        await to.stdout(bytes(platform.stdin))
        await to.exit()

    platform.commands["cat"] = cat
    data = bytes(range(256)) * 1000  # several pieces
    assert sandbox.commands.run("cat", stdin=data).stdout_bytes == data
    assert b'"stdin":true' in platform.calls("/process.Process/Start")[0].body


def test_input_that_nobody_reads_is_no_error(platform: Platform, sandbox: Sandbox) -> None:
    async def refuses(to: Exchange) -> None:
        await to.answer(404, {"code": "not_found", "message": "process with pid 42 not found"})

    platform.routes["POST /process.Process/SendInput"] = refuses
    platform.commands["true"] = true
    assert sandbox.commands.run("true", stdin="x").ok


def test_input_that_broke_on_the_way_is_an_error(platform: Platform, sandbox: Sandbox) -> None:
    async def breaks(to: Exchange) -> None:
        to.abort()

    async def cat(to: Exchange) -> None:
        await platform.killed.wait()
        await to.exit(-1, "signal: killed")

    platform.routes["POST /process.Process/SendInput"] = breaks
    platform.commands["cat"] = cat
    with pytest.raises(wrenn.ConnectionLostError):
        sandbox.commands.run("cat", stdin="all of it")


def test_a_failing_callback_kills_the_command(platform: Platform, sandbox: Sandbox) -> None:
    async def runs(to: Exchange) -> None:
        await to.stdout(b"x")
        await platform.release.wait()

    def fails(_: str) -> None:
        raise LookupError("of the caller")

    platform.commands["runs"] = runs
    with pytest.raises(LookupError):
        sandbox.commands.run("runs", on_stdout=fails)
    assert platform.killed.is_set()


def test_a_handle_reads_feeds_and_ends(platform: Platform, sandbox: Sandbox) -> None:
    async def shell(to: Exchange) -> None:
        await to.stdout(b"ready")
        await platform.stdin_closed.wait()
        await to.stdout(bytes(platform.stdin))
        await to.exit()

    platform.commands["shell"] = shell
    with sandbox.commands.run("shell", background=True, stdin=True, timeout=None) as handle:
        assert (handle.pid, handle.exit_code) == (42, None)
        assert next(handle).text == "ready"
        handle.send_stdin("in")
        handle.send_stdin(b"put")
        handle.close_stdin()
        assert [(piece.stream, piece.data) for piece in handle] == [("stdout", b"input")]
        assert handle.exit_code == 0
        assert handle.wait().stdout == "readyinput"
        assert handle.wait(check=True).ok, "may be asked again"
    assert repr(handle) == "<CommandHandle pid=42 exit_code=0>"


def test_disconnect_lets_it_run(platform: Platform, sandbox: Sandbox) -> None:
    async def runs(to: Exchange) -> None:
        await platform.release.wait()

    platform.commands["runs"] = runs
    handle = sandbox.commands.run("runs", background=True)
    handle.disconnect()
    handle.disconnect()
    with pytest.raises(wrenn.ConnectionLostError, match="disconnected"):
        handle.wait()
    assert not platform.killed.is_set()


def test_connect_list_kill(platform: Platform, sandbox: Sandbox) -> None:
    platform.commands["connect"] = hello
    assert sandbox.commands.connect(42).wait().stdout == "hi\n"
    assert sandbox.commands.connect("job").wait().stdout == "hi\n"
    bodies = [request.body[5:] for request in platform.calls("/process.Process/Connect")]
    assert bodies == [b'{"process":{"pid":42}}', b'{"process":{"tag":"job"}}']
    [process] = sandbox.commands.list()
    assert (process.pid, process.tag, process.cmd, process.args[-1]) == (42, "job", "/bin/bash", "sleep 1")
    assert sandbox.commands.kill(42)
    assert not sandbox.commands.kill(43, "SIGTERM")
    assert platform.requests[-1].json() == {"process": {"pid": 43}, "signal": "SIGNAL_SIGTERM"}


def test_connections_are_used_again(platform: Platform, client: Client) -> None:
    """Streams are read to their end, so that twenty commands and as many files need one connection."""
    platform.commands["echo hi"] = hello
    with Sandbox.create(client=client) as one, Sandbox.create(client=client) as other:
        for sandbox in (one, other) * 10:
            sandbox.commands.run("echo hi")
            sandbox.files.write("a", b"x")
            assert sandbox.files.read("a") == "x"
    assert platform.accepted == 1


def test_threads_share_a_client(platform: Platform, sandbox: Sandbox) -> None:
    gate = asyncio.Event()
    running = 0

    async def together(to: Exchange) -> None:
        nonlocal running
        running += 1
        if running == 4:
            gate.set()
        await gate.wait()  # opens only when all four run at once
        await to.exit()

    platform.commands["together"] = together
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(sandbox.commands.run("together").exit_code))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert codes == [0] * 4
    assert platform.accepted <= 5
