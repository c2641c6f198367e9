# Generated from _async/commands.py by scripts/generate_sync.py: change it there.

"""Commands in a sandbox: start, stream, feed, kill."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal, overload

from wrenn._concurrency import Worker
from wrenn._output import MAX_OUTPUT
from wrenn._sync._envd import Envd
from wrenn._sync.handle import CommandHandle, OnText
from wrenn._wire import Empty, ProcessConfig, ProcessList, SelectRequest, StartRequest, selector
from wrenn.errors import WrennError
from wrenn.models import CommandResult, ProcessInfo, Signal


class Commands:
    """`sandbox.commands`."""

    def __init__(self, envd: Envd) -> None:
        self._envd = envd

    @overload
    def run(
        self,
        cmd: str,
        *,
        args: Sequence[str] | None = None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = 60,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        stdin: str | bytes | bool | None = None,
        tag: str | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        background: Literal[False] = False,
    ) -> CommandResult: ...
    @overload
    def run(
        self,
        cmd: str,
        *,
        args: Sequence[str] | None = None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = 60,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        stdin: bool | None = None,
        tag: str | None = None,
        max_output: int = MAX_OUTPUT,
        background: Literal[True],
    ) -> CommandHandle: ...
    def run(
        self,
        cmd: str,
        *,
        args: Sequence[str] | None = None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = 60,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        stdin: str | bytes | bool | None = None,
        tag: str | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        background: bool = False,
    ) -> CommandResult | CommandHandle:
        """Runs a command and waits for its end; output is streamed while it runs.

        ```python
        result = sandbox.commands.run("make test", cwd="app", on_stdout=print)
        if result.exit_code:
            print(result.stderr)
        ```

        :param cmd: a line for `/bin/bash -l -c`; with `args` a program, run as it is without a shell
        :param envs: added to the sandbox's own variables
        :param cwd: where to run; relative paths start at the user's home
        :param user: whom to run as; the template's user when not given
        :param timeout: seconds until the sandbox kills the whole process group; None for never
        :param on_stdout: called with each piece of text as it arrives; likewise `on_stderr`. What it returns is
            awaited if it can be
        :param stdin: text or bytes for its input, which is closed behind them; True (with `background`) leaves it
            open for `send_stdin`; otherwise it is empty
        :param tag: a name by which `connect`, `kill` and `list` know it beside the pid
        :param check: raise when the exit code is not 0. Without it a non-zero exit code is a result like others
        :param max_output: bytes of stdout and of stderr that the result keeps; of more output the end is kept and
            `truncated` is set. Callbacks get everything
        :param background: return a handle at once. Then read what it writes (iterate over the handle, or `wait`) or
            `disconnect`: a command whose output nobody takes stands still when the buffers are full
        :raises CommandTimeoutError: it was killed at its deadline; has the output so far
        :raises CommandExitError: with `check`
        :raises InvalidRequestError: no such program, directory, or bad variables
        :raises SandboxNotRunningError: paused, killed or gone, also in the middle
        """
        if timeout is not None and timeout < 0:
            raise ValueError("timeout must not be negative")
        lifetime = timeout or None
        started = time.monotonic()
        config = (
            ProcessConfig(cmd="/bin/bash", args=["-l", "-c", cmd])
            if args is None
            else ProcessConfig(cmd=cmd, args=list(args))
        )
        config.envs = dict(envs or {})
        config.cwd = cwd
        request = StartRequest(process=config, tag=tag, stdin=stdin not in {None, False})
        stream = self._envd.events("process.Process/Start", request, user=user, lifetime=lifetime)
        handle = CommandHandle.attach(
            self._envd,
            stream,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            max_output=max_output,
            deadline=started + lifetime if lifetime else None,
            timeout=lifetime,
        )
        if background:
            return handle
        try:
            if isinstance(stdin, str | bytes):
                data = stdin.encode() if isinstance(stdin, str) else stdin
                # Beside reading: a command like `cat` takes no more input while nobody takes its output.
                with Worker(lambda: handle.feed(data)):
                    result = handle.wait()
            else:
                result = handle.wait()
        except WrennError:
            raise
        except BaseException:  # interrupted, cancelled, or a callback failed: nobody will hear of it again
            with suppress(WrennError):
                handle.kill()
            raise
        finally:
            handle.disconnect()
        return result.check() if check else result

    def connect(
        self,
        pid: int | str,
        *,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> CommandHandle:
        """Joins a running command: its output from now on. One that ended a moment ago gives its exit code.

        :param pid: or the tag that it was started with
        :raises ProcessNotFoundError: there is none
        """
        stream = self._envd.events("process.Process/Connect", SelectRequest(selector(pid)))
        return CommandHandle.attach(
            self._envd, stream, on_stdout=on_stdout, on_stderr=on_stderr, max_output=max_output
        )

    def list(self) -> list[ProcessInfo]:
        """The commands that run; not what they have started themselves."""
        answer = self._envd.unary("process.Process/List", Empty(), ProcessList, idempotent=True)
        return [process.info() for process in answer.processes]

    def kill(self, pid: int | str, signal: Signal = "SIGKILL") -> bool:
        """Signals a command's whole process group; after SIGKILL it is gone. False when there is none of that pid or
        tag."""
        return self._envd.signal(pid, signal)

    def send_stdin(self, pid: int | str, data: str | bytes, *, timeout: float | None = None) -> None:
        """Writes to a command that was started with `stdin=True`; returns when it has taken everything.

        :param timeout: seconds to wait for it to take 64 KiB; the client's request timeout when not given
        :raises ProcessNotFoundError: there is none
        :raises InternalError: its input is not open
        """
        self._envd.send_stdin(pid, data.encode() if isinstance(data, str) else data, timeout=timeout)

    def close_stdin(self, pid: int | str) -> None:
        """Ends a command's input; safe to repeat.

        :raises ProcessNotFoundError: there is none
        """
        self._envd.close_stdin(pid)
