"""`wrenn exec` and `wrenn run`: a command's output and exit code as if it ran here."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Annotated, BinaryIO

from cyclopts import Parameter

from wrenn import CommandHandle, Sandbox
from wrenn.cli import output
from wrenn.cli.sandboxes import HERE, Pairs, pairs
from wrenn.cli.settings import Connection
from wrenn.errors import CommandTimeoutError, WrennError
from wrenn.models import CommandResult

TIMED_OUT = 124  # as timeout(1)
OWN_FAULT = 125  # as docker run: the platform failed, not the command
BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells have it
DAY = 86400.0
SIGNALS = {"killed": 9, "terminated": 15, "hangup": 1, "interrupt": 2, "aborted": 6, "segmentation fault": 11}

Command = Annotated[str, Parameter(allow_leading_hyphen=True)]


def exec_(
    sandbox: str,
    /,
    *command: Command,
    env: Annotated[Pairs, Parameter(name=("--env", "-e"))] = None,
    cwd: str | None = None,
    user: Annotated[str | None, Parameter(name=("--user", "-u"))] = None,
    timeout: float | None = None,
    stdin: Annotated[bool, Parameter(name=("--stdin", "-i"), negative=())] = False,
    connection: Connection = HERE,
) -> int:
    """Run a command in a sandbox; its output and its exit code are those of this command.

    One word is a line for the sandbox's bash; several are a program and its arguments as they are:
    `wrenn exec ID -- 'ls | wc -l'`, `wrenn exec ID -- ls -l "my file"`.

    124 says that its deadline passed, 125 that not the command but the platform failed.

    :param sandbox: Its id.
    :param command: What to run, after `--`.
    :param env: NAME=VALUE for the command; may be given several times.
    :param cwd: Where to run it.
    :param user: Whom to run it as.
    :param timeout: Seconds until it is killed; without it never.
    :param stdin: Give it the input of this command.
    """
    require(command)
    envs = pairs(env)

    def body() -> int:
        with connection.client() as client:
            target = Sandbox.connect(sandbox, client=client)
            return execute(target, command, envs=envs, cwd=cwd, user=user, timeout=timeout, stdin=stdin)

    return guarded(body)


def run(
    *command: Command,
    template: Annotated[str, Parameter(name=("--template", "-t"))] = "minimal",
    vcpus: int | None = None,
    memory_mb: int | None = None,
    disk_mb: int | None = None,
    env: Annotated[Pairs, Parameter(name=("--env", "-e"))] = None,
    timeout: float | None = None,
    stdin: Annotated[bool, Parameter(name=("--stdin", "-i"), negative=())] = False,
    keep: Annotated[bool, Parameter(negative=())] = False,
    connection: Connection = HERE,
) -> int:
    """Run a command in a sandbox of its own, which is removed afterwards.

    Output and exit code as with `exec`: `wrenn run -- uname -a`.

    :param command: What to run, after `--`.
    :param template: What the sandbox starts from.
    :param env: NAME=VALUE; may be given several times.
    :param timeout: Seconds until the command is killed; without it never.
    :param stdin: Give it the input of this command.
    :param keep: Leave the sandbox; its id is written to stderr.
    """
    require(command)
    envs = pairs(env)

    def body() -> int:
        with connection.client() as client:
            target = Sandbox.create(
                template, vcpus=vcpus, memory_mb=memory_mb, disk_mb=disk_mb, envs=envs, client=client
            )
            try:
                return execute(target, command, timeout=timeout, stdin=stdin)
            finally:
                if keep:
                    sys.stderr.write(target.id + "\n")
                else:
                    target.kill()

    return guarded(body)


def require(command: tuple[str, ...]) -> None:
    if not command:
        raise ValueError("no command: write it after `--`, e.g. `-- uname -a`")


def guarded(body: Callable[[], int]) -> int:
    try:
        return body()
    except WrennError as exc:
        output.write_error(exc)
        return TIMED_OUT if isinstance(exc, CommandTimeoutError) else OWN_FAULT


def execute(
    sandbox: Sandbox,
    command: tuple[str, ...],
    *,
    envs: dict[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    timeout: float | None = None,
    stdin: bool = False,
) -> int:
    """Streams to stdout and stderr; gives the exit code to end with.

    Interrupted, or with nobody left to read the output, it kills the command.
    """
    first, *rest = command
    handle = sandbox.commands.run(
        first,
        args=rest or None,
        envs=envs,
        cwd=cwd,
        user=user,
        timeout=timeout,
        stdin=stdin,
        max_output=0,  # it is written at once
        background=True,
    )
    if stdin:
        # Not waited for: it may stand in a read of the terminal when the command has long ended.
        threading.Thread(target=forward, args=(sandbox, handle.pid, sys.stdin.buffer), daemon=True).start()
    targets: dict[str, BinaryIO] = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    try:
        with interrupting(lambda: stop(handle)):
            for piece in handle:
                targets[piece.stream].write(piece.data)
                targets[piece.stream].flush()
            return code_of(handle.wait())
    except KeyboardInterrupt:
        stop(handle)
        return output.INTERRUPTED
    except BrokenPipeError:
        stop(handle)
        # Python would complain about the same at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    finally:
        handle.disconnect()


@contextmanager
def interrupting(stop: Callable[[], None]) -> Generator[None]:
    """Calls `stop` on SIGINT, whatever the main thread is doing.

    Python raises KeyboardInterrupt between two of its own instructions. A signal that comes just before a system call
    is noticed when that has returned, which the read of a silent command's output never does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        while numbers := os.read(reading, 64):
            if signal.SIGINT in numbers:
                stop()
        os.close(reading)

    listener = threading.Thread(target=listen, daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def forward(sandbox: Sandbox, pid: int, source: BinaryIO) -> None:
    """Copies input to the command until either ends."""
    with suppress(WrennError):  # the command has ended, or its stream tells what is wrong
        while data := os.read(source.fileno(), 65536):
            sandbox.commands.send_stdin(pid, data, timeout=DAY)
        sandbox.commands.close_stdin(pid)


def stop(handle: CommandHandle) -> None:
    with suppress(WrennError):
        handle.kill()


def code_of(result: CommandResult) -> int:
    """A signal becomes 128 + its number, as in a shell."""
    if result.exit_code >= 0:
        return result.exit_code
    name = result.status.removeprefix("signal: ").removesuffix(" (core dumped)")
    return 128 + SIGNALS.get(name, 0)
