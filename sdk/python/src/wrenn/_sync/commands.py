# Generated from _async/commands.py by scripts/generate_sync.py: change it there.

"""Commands in a sandbox: start, stream, feed, kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, overload

from wrenn._concurrency import Lock, Worker, settled
from wrenn._output import MAX_OUTPUT, Stream
from wrenn._sync._envd import Envd, ProcessStream
from wrenn._wire import (
    STDIN_PIECE,
    DataEvent,
    Empty,
    EndEvent,
    Input,
    InputRequest,
    ProcessConfig,
    ProcessEvent,
    ProcessList,
    Selector,
    SelectRequest,
    SignalRequest,
    StartRequest,
)
from wrenn.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    InternalError,
    ProcessNotFoundError,
    ProtocolError,
    RequestTimeoutError,
    SandboxNotRunningError,
    ServerTimeoutError,
    WrennError,
)
from wrenn.models import CommandResult, Output, ProcessInfo, Signal

OnText = Callable[[str], object]
_Name = Literal["stdout", "stderr"]

GRACE = 5.0
"""Seconds beyond a command's deadline in which the sandbox should have said that it killed it."""
DAY = 86400.0


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
        stream = self._envd.events("process.Process/Connect", SelectRequest(_selector(pid)))
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
        try:
            self._envd.unary(
                "process.Process/SendSignal",
                SignalRequest(_selector(pid), f"SIGNAL_{signal}"),
                Empty,
                not_found=ProcessNotFoundError,
            )
        except ProcessNotFoundError:
            return False
        return True

    def send_stdin(self, pid: int | str, data: str | bytes, *, timeout: float | None = None) -> None:
        """Writes to a command that was started with `stdin=True`; returns when it has taken everything.

        :param timeout: seconds to wait for it to take a piece; the client's request timeout when not given
        :raises ProcessNotFoundError: there is none
        :raises InternalError: its input is not open
        """
        raw = data.encode() if isinstance(data, str) else data
        for at in range(0, len(raw), STDIN_PIECE):
            self._envd.unary(
                "process.Process/SendInput",
                InputRequest(_selector(pid), Input(raw[at : at + STDIN_PIECE])),
                Empty,
                timeout=timeout,
                not_found=ProcessNotFoundError,
            )

    def close_stdin(self, pid: int | str) -> None:
        """Ends a command's input; safe to repeat.

        :raises ProcessNotFoundError: there is none
        """
        self._envd.unary(
            "process.Process/CloseStdin",
            SelectRequest(_selector(pid)),
            Empty,
            idempotent=True,
            not_found=ProcessNotFoundError,
        )


class CommandHandle:
    """A command that runs.

    ```python
    with sandbox.commands.run("python -u worker.py", background=True, timeout=None) as worker:
        for output in worker:
            print(output.stream, output.text)
            if "ready" in output.text:
                break
        worker.kill()
    ```

    Its output is read by whoever iterates or waits; leaving the `with` block (or `disconnect`) lets it run on.
    """

    def __init__(
        self,
        envd: Envd,
        stream: ProcessStream,
        pid: int,
        *,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
        deadline: float | None = None,
        timeout: float | None = None,
    ) -> None:
        self.pid = pid
        self._envd = envd
        self._commands = Commands(envd)
        self._stream = stream
        self._lock = Lock()
        self._callbacks: dict[_Name, OnText | None] = {"stdout": on_stdout, "stderr": on_stderr}
        self._kept: dict[_Name, Stream] = {"stdout": Stream(max_output), "stderr": Stream(max_output)}
        self._deadline = deadline
        self._timeout = timeout
        self._end: EndEvent | None = None
        self._error: WrennError | None = None
        self._feed_error: WrennError | None = None
        self._rest: list[Output] = []
        self._over = False
        """Nothing more will come from the stream."""

    @classmethod
    def attach(
        cls,
        envd: Envd,
        stream: ProcessStream,
        *,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
        deadline: float | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Waits for the stream's first event, which tells the pid."""
        handle = cls(
            envd,
            stream,
            0,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            max_output=max_output,
            deadline=deadline,
            timeout=timeout,
        )
        try:
            first = handle._event()
            if first is None or first.start is None:
                raise ProtocolError("the sandbox's agent did not tell the start of the command")
        except BaseException:
            stream.close()
            raise
        handle.pid = first.start.pid
        return handle

    @property
    def exit_code(self) -> int | None:
        """None while it runs, as far as has been read."""
        return None if self._end is None else self._end.exit_code

    def wait(self, *, check: bool = False) -> CommandResult:
        """Reads to the end; may be called again. The result has all output that this handle has read.

        :raises CommandTimeoutError: killed at its deadline
        :raises CommandExitError: with `check`, a non-zero exit code
        :raises ConnectionLostError: the connection broke; the command may still run: `commands.connect(pid)`
        :raises SandboxNotRunningError: the sandbox was paused or killed, or died
        """
        while self._next() is not None:
            pass
        result = self._result()
        return result.check() if check else result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Output:
        output = self._next()
        if output is None:
            raise StopIteration
        return output

    def kill(self, signal: Signal = "SIGKILL") -> bool:
        """Signals the whole process group. False when it has ended already."""
        return self._commands.kill(self.pid, signal)

    def send_stdin(self, data: str | bytes) -> None:
        """See `commands.send_stdin`."""
        self._commands.send_stdin(self.pid, data)

    def close_stdin(self) -> None:
        """See `commands.close_stdin`."""
        self._commands.close_stdin(self.pid)

    def disconnect(self) -> None:
        """Stops reading; the command runs on, and its output is dropped while nobody is connected."""
        if not self._over:
            self._over = True
            self._error = ConnectionLostError("disconnected from the command", hint="commands.connect(pid)")
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.disconnect()

    def __repr__(self) -> str:
        state = "running" if self._end is None else f"exit_code={self._end.exit_code}"
        return f"<CommandHandle pid={self.pid} {state}>"

    def feed(self, data: bytes) -> None:
        """Sends all of its input and closes it. A command that ends without reading it is no error, as with a pipe;
        whatever else goes wrong kills it, lest it take a part for the whole."""
        try:
            wait = self._timeout + GRACE if self._timeout else DAY
            self._commands.send_stdin(self.pid, data, timeout=wait)
            self._commands.close_stdin(self.pid)
        except (ProcessNotFoundError, InternalError):
            pass
        except WrennError as exc:
            self._feed_error = exc
            with suppress(WrennError):
                self.kill()

    def _next(self) -> Output | None:
        with self._lock:
            output = self._read()
        if output is not None:
            callback = self._callbacks[output.stream]
            if callback is not None and output.text:
                settled(callback(output.text))
        return output

    def _read(self) -> Output | None:
        while not self._over:
            event = self._event()
            if event is None:
                self._over = True
                self._stream.close()
                self._rest = [
                    Output(stream=name, data=b"", text=text)
                    for name, kept in self._kept.items()
                    if (text := kept.flush())
                ]
                if self._end is None:
                    self._error = ProtocolError("the sandbox's agent did not tell the end of the command")
            elif event.end is not None:
                self._end = event.end
            elif event.data is not None and (output := self._output(event.data)) is not None:
                return output
        if self._rest:
            return self._rest.pop(0)
        error = self._error or self._feed_error
        if error is not None:
            raise error
        return None

    def _output(self, data: DataEvent) -> Output | None:
        name: _Name = "stderr" if data.stderr else "stdout"
        raw = data.stderr or data.stdout or data.pty
        return Output(stream=name, data=raw, text=self._kept[name].feed(raw)) if raw else None

    def _event(self) -> ProcessEvent | None:
        try:
            event = self._stream.next()
            if self._deadline is not None and time.monotonic() > self._deadline + GRACE:
                raise ServerTimeoutError("the deadline has passed")
            return event
        except ServerTimeoutError as exc:
            limit = f" after {self._timeout:g} s" if self._timeout else ""
            error = CommandTimeoutError(f"the command was killed at its deadline{limit}", self._result())
            self._failed(error)
            raise error from exc
        except (ConnectionLostError, RequestTimeoutError, SandboxNotRunningError) as exc:
            error = self._envd.explained(exc)
            self._failed(error)
            raise error from exc
        except WrennError as exc:
            self._failed(exc)
            raise

    def _failed(self, error: WrennError) -> None:
        self._over = True
        self._error = error
        self._stream.close()

    def _result(self) -> CommandResult:
        end = self._end
        return CommandResult(
            exit_code=-1 if end is None else end.exit_code,
            status="" if end is None else end.status,
            stdout_bytes=self._kept["stdout"].kept(),
            stderr_bytes=self._kept["stderr"].kept(),
            pid=self.pid,
            truncated=any(kept.truncated for kept in self._kept.values()),
        )


def _selector(pid: int | str) -> Selector:
    return Selector(tag=pid) if isinstance(pid, str) else Selector(pid=pid)
