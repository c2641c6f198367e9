"""Processes in the sandbox."""

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from typing import Any

from .kit import Sdk, case, e2b, raises, until

PROGRAM_THAT_GOES_AWAY = """
import sys, e2b
e2b.Sandbox.connect(sys.argv[1]).commands.run("exec -a left-alone sleep 300", timeout=5)
"""


async def pids(sdk: Sdk, sandbox: Any) -> list[int]:
    return [process.pid for process in await sdk(sandbox.commands.list)]


@case("commands.run", "output, errors, exit code", domain=True)
async def run(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    result = await sdk(sandbox.commands.run, "echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ("out\n", "err\n", 0, None)


@case("commands.run", "a non-zero exit raises CommandExitException with the output")
async def exit_code(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    with raises(e2b.CommandExitException) as raised:
        await sdk(sandbox.commands.run, "echo out; echo err >&2; exit 42")
    error = raised.error
    assert (error.stdout, error.stderr, error.exit_code) == ("out\n", "err\n", 42)


@case("commands.run", "a command that a signal ended raises CommandExitException")
async def signalled(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    with raises(e2b.CommandExitException) as raised:
        await sdk(sandbox.commands.run, "kill -9 $$")
    assert raised.error.exit_code == -1
    assert "signal: killed" in str(raised.error.error)


@case("commands.run", "callbacks get the output while it is made", domain=True)
async def callbacks(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    seen: list[tuple[str, str]] = []
    moments: list[float] = []

    def out(text: str) -> None:
        moments.append(time.monotonic())
        seen.append(("out", text))

    def err(text: str) -> None:
        seen.append(("err", text))

    line = "echo one; sleep 1; echo two >&2; sleep 0.3; echo three"
    result = await sdk(sandbox.commands.run, line, on_stdout=out, on_stderr=err)
    assert seen == [("out", "one\n"), ("err", "two\n"), ("out", "three\n")]
    assert moments[1] - moments[0] > 1
    assert result.stdout == "one\nthree\n"


@case("commands.run", "asynchronous callbacks are awaited", only="async")
async def async_callbacks(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    seen: list[str] = []

    async def out(text: str) -> None:
        await asyncio.sleep(0)
        seen.append(text)

    await sdk(sandbox.commands.run, "echo one", on_stdout=out)
    assert seen == ["one\n"]


@case("commands.run", "envs are added to the sandbox's own and win")
async def envs(sdk: Sdk) -> None:
    async with sdk.sandbox(envs={"A": "sandbox", "B": "sandbox"}) as sandbox:
        line = 'echo "$A $B $HOME $USER $LOGNAME $E2B_SANDBOX"'
        result = await sdk(sandbox.commands.run, line, envs={"B": "command"})
        assert result.stdout == "sandbox command /home/user user user true\n"


@case("commands.run", "cwd: absolute, relative to home, missing")
async def cwd(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.commands.run, "mkdir -p ~/deep/er")
    assert (await sdk(sandbox.commands.run, "pwd")).stdout == "/home/user\n"
    assert (await sdk(sandbox.commands.run, "pwd", cwd="/usr/lib")).stdout == "/usr/lib\n"
    assert (await sdk(sandbox.commands.run, "pwd", cwd="deep/er")).stdout == "/home/user/deep/er\n"
    assert (await sdk(sandbox.commands.run, "pwd", cwd="~/deep")).stdout == "/home/user/deep\n"
    with raises(e2b.InvalidArgumentException, saying="/no/such/place"):
        await sdk(sandbox.commands.run, "pwd", cwd="/no/such/place")


@case("commands.run", "user: user by default, root, unknown")
async def user(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    assert (await sdk(sandbox.commands.run, "whoami")).stdout == "user\n"
    assert (await sdk(sandbox.commands.run, "whoami; pwd; id -u", user="root")).stdout == "root\n/root\n0\n"
    assert (await sdk(sandbox.commands.run, "sudo whoami")).stdout == "root\n"
    with raises(e2b.AuthenticationException, saying="nobody-of-that-name"):
        await sdk(sandbox.commands.run, "whoami", user="nobody-of-that-name")


@case("commands.run", "the timeout raises TimeoutException and ends the process")
async def timeout(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    began = time.monotonic()
    with raises(e2b.TimeoutException):
        await sdk(sandbox.commands.run, "exec -a too-long sleep 61", timeout=2)
    assert 1.5 < time.monotonic() - began < 8

    async def gone() -> bool:
        return (await sdk(sandbox.commands.run, "pgrep -f '^too-long' || true")).stdout == ""

    await until(gone, seconds=10)


@case("commands.run", "timeout=0 is none")
async def no_timeout(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    assert (await sdk(sandbox.commands.run, "sleep 1; echo done", timeout=0)).stdout == "done\n"


@case("commands.run", "10 MB of output arrive whole")
async def huge(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    result = await sdk(sandbox.commands.run, "seq 1 1400000 | tee /tmp/huge; sha256sum /tmp/huge >&2")
    assert len(result.stdout) > 9_900_000
    assert hashlib.sha256(result.stdout.encode()).hexdigest() == result.stderr.split()[0]


@case("commands.run", "every character, also those cut between two chunks")
async def characters(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    assert (await sdk(sandbox.commands.run, "echo 'äß漢字 🦀 \"$`'")).stdout == 'äß漢字 🦀 "$`\n'
    result = await sdk(sandbox.commands.run, "printf '\\360\\237'; sleep 0.3; printf '\\246\\200'")
    assert result.stdout == "🦀"


@case("commands.run", "retain_output=False gives output to callbacks alone", since=(2, 63))
async def retain_output(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    seen: list[str] = []
    result = await sdk(sandbox.commands.run, "echo one", retain_output=False, on_stdout=seen.append)
    assert seen == ["one\n"]
    assert not result.stdout


@case("commands.run", "five at the same time")
async def parallel(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    # Each waits for the next one's file: one after the other they would never end.
    lines = [
        f"touch /tmp/p{number}; until [ -e /tmp/p{(number + 1) % 5} ]; do sleep 0.05; done; echo {number}"
        for number in range(5)
    ]
    results = await asyncio.gather(*(sdk(sandbox.commands.run, line) for line in lines))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(5)]


@case(
    "commands.run",
    "background: a handle at once, wait gives the result",
    also=("CommandHandle.wait", "CommandHandle.pid"),
)
async def background(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    began = time.monotonic()
    handle = await sdk(sandbox.commands.run, "sleep 2; echo late", background=True)
    assert time.monotonic() - began < 2
    assert handle.pid > 0
    result = await sdk(handle.wait)
    assert (result.stdout, result.exit_code) == ("late\n", 0)


@case(
    "CommandHandle.stdout",
    "output, errors and exit code of a finished command stay on the handle",
    also=("CommandHandle.stderr", "CommandHandle.exit_code", "CommandHandle.error"),
    only="async",
)
async def handle_values(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "echo out; echo err >&2; exit 3", background=True)
    assert handle.exit_code is None
    with raises(e2b.CommandExitException):
        await handle.wait()
    assert (handle.stdout, handle.stderr, handle.exit_code) == ("out\n", "err\n", 3)
    assert handle.error


@case("CommandHandle.wait", "callbacks and iteration of the synchronous handle", only="sync")
async def iteration(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "echo out; sleep 0.2; echo err >&2", background=True)
    assert await asyncio.to_thread(list, handle) == [("out\n", None, None), (None, "err\n", None)]
    handle = await sdk(sandbox.commands.run, "echo out; echo err >&2", background=True)
    out: list[str] = []
    err: list[str] = []
    await sdk(handle.wait, on_stdout=out.append, on_stderr=err.append)
    assert (out, err) == (["out\n"], ["err\n"])


@case("CommandHandle.kill", "True, then False; the process is gone")
async def handle_kill(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "sleep 300", background=True)
    assert await sdk(handle.kill) is True
    with raises(e2b.CommandExitException):
        await sdk(handle.wait)
    assert handle.pid not in await pids(sdk, sandbox)
    assert await sdk(handle.kill) is False


@case("CommandHandle.disconnect", "the command goes on", domain=True)
async def disconnect(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(
        sandbox.commands.run, "sleep 2; echo written >/tmp/disconnect; sleep 300", background=True
    )
    await sdk(handle.disconnect)
    assert handle.pid in await pids(sdk, sandbox)

    async def written() -> bool:
        return await sdk(sandbox.files.exists, "/tmp/disconnect")

    await until(written, seconds=10)
    assert await sdk(sandbox.commands.kill, handle.pid) is True


async def outlives_its_client(sdk: Sdk, sandbox: Any, pid: int) -> None:
    """As long as the timeout that its client gave it: some seconds more."""
    await asyncio.sleep(1)
    assert pid in await pids(sdk, sandbox)

    async def ended() -> bool:
        return pid not in await pids(sdk, sandbox)

    await until(ended, seconds=10)


@case(
    "commands.run",
    "a client whose task is cancelled leaves the command alone until its timeout",
    only="async",
    domain=True,
)
async def cancelled(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    started = asyncio.Event()

    def out(_: str) -> None:
        started.set()

    task = sdk.start(sandbox.commands.run, "echo $$; exec sleep 302", timeout=4, on_stdout=out)
    await started.wait()
    [process] = [
        process for process in await sdk(sandbox.commands.list) if process.args[-1].endswith("sleep 302")
    ]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, e2b.SandboxException):
        await task
    await outlives_its_client(sdk, sandbox, process.pid)


@case(
    "commands.run", "a client that dies leaves the command alone until its timeout", only="sync", domain=True
)
async def client_dies(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    program = [sys.executable, "-c", PROGRAM_THAT_GOES_AWAY, sandbox.sandbox_id]
    client = await asyncio.create_subprocess_exec(*program, env=os.environ)

    async def started() -> list[int]:
        found = await sdk(sandbox.commands.list)
        return [process.pid for process in found if "left-alone" in process.args[-1]]

    try:
        [pid] = await until(started)
    finally:
        with contextlib.suppress(ProcessLookupError):
            client.kill()
        await client.wait()
    await outlives_its_client(sdk, sandbox, pid)


async def running(sdk: Sdk, sandbox: Any) -> asyncio.Task[Any]:
    """A command that waits for ever, and has begun to."""
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def out(_: str) -> None:
        loop.call_soon_threadsafe(started.set)

    task = sdk.start(sandbox.commands.run, "echo started; sleep 300", timeout=200, on_stdout=out)
    await started.wait()
    return task


async def told_of_the_end(sdk: Sdk, task: asyncio.Task[Any], *, within: float) -> None:
    began = time.monotonic()
    # 2.45 knows no better over HTTP/1.1 than that the connection is gone.
    with raises(e2b.TimeoutException, saying="killed" if sdk.version >= (2, 63) else ""):
        await task
    assert time.monotonic() - began < within


@case("Sandbox.kill", "a running command raises the SDK's error of a killed sandbox at once", domain=True)
async def killed_under_it(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        task = await running(sdk, sandbox)
        await sdk(sdk.Sandbox.kill, sandbox.sandbox_id)
        await told_of_the_end(sdk, task, within=5)


@case(
    "Sandbox.set_timeout", "a running command raises that error when the sandbox's time is over", domain=True
)
async def over_under_it(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        task = await running(sdk, sandbox)
        await sdk(sandbox.set_timeout, 1)
        await told_of_the_end(sdk, task, within=6)


@case("commands.list", "processes that were started through envd, with what they were started with")
async def listing(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "sleep 300", background=True, envs={"LISTED": "1"}, cwd="/usr")
    [process] = [process for process in await sdk(sandbox.commands.list) if process.pid == handle.pid]
    assert (process.cmd, process.args, process.cwd) == ("/bin/bash", ["-l", "-c", "sleep 300"], "/usr")
    assert process.envs["LISTED"] == "1"
    assert process.tag is None
    await sdk(handle.kill)


@case("commands.kill", "True, then False; False for an unknown process")
async def kill(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "sleep 300", background=True)
    assert await sdk(sandbox.commands.kill, handle.pid) is True
    with raises(e2b.CommandExitException):
        await sdk(handle.wait)
    assert await sdk(sandbox.commands.kill, handle.pid) is False
    assert await sdk(sandbox.commands.kill, 999_999) is False


@case("commands.connect", "a running command from another client, with its later output")
async def connect(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    line = "echo early; until [ -e /tmp/go-on ]; do sleep 0.1; done; echo late; exit 5"
    handle = await sdk(sandbox.commands.run, line, background=True)
    other = await sdk(sdk.Sandbox.connect, sandbox.sandbox_id)
    second = await sdk(other.commands.connect, handle.pid)
    assert second.pid == handle.pid
    await sdk(sandbox.files.write, "/tmp/go-on", "")
    for connected, output in ((handle, "early\nlate\n"), (second, "late\n")):
        with raises(e2b.CommandExitException) as raised:
            await sdk(connected.wait)
        assert raised.error.exit_code == 5
        assert raised.error.stdout.endswith(output)


@case("commands.connect", "a command that has just finished gives its end; an unknown one is not found")
async def connect_finished(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "exit 7", background=True)
    with raises(e2b.CommandExitException):
        await sdk(handle.wait)
    second = await sdk(sandbox.commands.connect, handle.pid)
    with raises(e2b.CommandExitException) as raised:
        await sdk(second.wait)
    assert raised.error.exit_code == 7
    with raises(e2b.NotFoundException):
        await sdk(sandbox.commands.connect, 999_999)


@case("commands.send_stdin", "text and bytes; close_stdin ends the input", also=("commands.close_stdin",))
async def stdin(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "cat; echo end", background=True, stdin=True)
    await sdk(sandbox.commands.send_stdin, handle.pid, "text ä\n")
    await sdk(sandbox.commands.send_stdin, handle.pid, b"bytes\n")
    await sdk(sandbox.commands.close_stdin, handle.pid)
    assert (await sdk(handle.wait)).stdout == "text ä\nbytes\nend\n"


@case("CommandHandle.send_stdin", "through the handle", also=("CommandHandle.close_stdin",))
async def handle_stdin(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "cat", background=True, stdin=True)
    await sdk(handle.send_stdin, "text\n")
    await sdk(handle.close_stdin)
    assert (await sdk(handle.wait)).stdout == "text\n"


@case("commands.send_stdin", "a command without stdin, or unknown, is refused")
async def no_stdin(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "sleep 300", background=True)
    with raises(e2b.SandboxException):
        await sdk(sandbox.commands.send_stdin, handle.pid, "x")
    await sdk(handle.kill)
    with raises(e2b.NotFoundException):
        await sdk(sandbox.commands.send_stdin, 999_999, "x")


@case("commands.run", "stdin is empty unless asked for")
async def empty_stdin(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    assert (await sdk(sandbox.commands.run, "cat; echo end")).stdout == "end\n"


@case("commands.stream_input", "many pieces over one stream", since=(2, 63), only="sync")
async def stream_input(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "cat", background=True, stdin=True)
    await sdk(sandbox.commands.stream_input, handle.pid, [f"{number}\n" for number in range(200)])
    await sdk(handle.close_stdin)
    assert (await sdk(handle.wait)).stdout == "".join(f"{number}\n" for number in range(200))


@case(
    "commands.stream_input",
    "a stream that stays open; its handle sends and closes",
    also=("CommandInputHandle.send", "CommandInputHandle.close"),
    since=(2, 63),
    only="async",
)
async def stream_input_handle(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    handle = await sdk(sandbox.commands.run, "cat", background=True, stdin=True)
    stream = sandbox.commands.stream_input(handle.pid)
    for number in range(100):
        await stream.send(f"{number}\n")
    await stream.close()
    async with sandbox.commands.stream_input(handle.pid) as again:
        await again.send(b"last\n")
    await sdk(handle.close_stdin)
    assert (await sdk(handle.wait)).stdout == "".join(f"{number}\n" for number in range(100)) + "last\n"
