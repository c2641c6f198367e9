"""A command that runs: read it, feed it, end it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from wrenn._async._envd import AsyncEnvd, AsyncProcessStream
from wrenn._concurrency import AsyncLock, async_settled
from wrenn._output import MAX_OUTPUT, Stream
from wrenn._wire import DataEvent, EndEvent, ProcessEvent
from wrenn.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    GuestError,
    InternalError,
    ProcessNotFoundError,
    ProtocolError,
    RequestTimeoutError,
    ServerTimeoutError,
    WrennError,
)
from wrenn.models import CommandResult, Output, Signal

OnText = Callable[[str], object]
_Name = Literal["stdout", "stderr"]

GRACE = 5.0
"""Seconds beyond a command's deadline in which the sandbox should have said that it killed it."""
DAY = 86400.0


class AsyncCommandHandle:
    """A command that runs.

    ```python
    async with await sandbox.commands.run("python -u worker.py", background=True, timeout=None) as worker:
        async for output in worker:
            print(output.stream, output.text)
            if "ready" in output.text:
                break
        await worker.kill()
    ```

    Its output is read by whoever iterates or waits; leaving the `with` block (or `disconnect`) lets it run on.
    """

    def __init__(
        self,
        envd: AsyncEnvd,
        stream: AsyncProcessStream,
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
        self._stream = stream
        self._lock = AsyncLock()
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
    async def attach(
        cls,
        envd: AsyncEnvd,
        stream: AsyncProcessStream,
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
            first = await handle._event()
            if first is None or first.start is None:
                raise ProtocolError("the sandbox's agent did not tell the start of the command")
        except BaseException:
            await stream.close()
            raise
        handle.pid = first.start.pid
        return handle

    @property
    def exit_code(self) -> int | None:
        """None while it runs, as far as has been read."""
        return None if self._end is None else self._end.exit_code

    async def wait(self, *, check: bool = False) -> CommandResult:
        """Reads to the end; may be called again. The result has all output that this handle has read.

        :raises CommandTimeoutError: killed at its deadline
        :raises CommandExitError: with `check`, a non-zero exit code
        :raises ConnectionLostError: the connection broke; the command may still run: `commands.connect(pid)`
        :raises SandboxNotRunningError: the sandbox was paused or killed, or died
        """
        while await self._next() is not None:
            pass
        result = self._result()
        return result.check() if check else result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        output = await self._next()
        if output is None:
            raise StopAsyncIteration
        return output

    async def kill(self, signal: Signal = "SIGKILL") -> bool:
        """Signals the whole process group. False when it has ended already."""
        return await self._envd.signal(self.pid, signal)

    async def send_stdin(self, data: str | bytes) -> None:
        """See `commands.send_stdin`."""
        await self._envd.send_stdin(self.pid, data.encode() if isinstance(data, str) else data)

    async def close_stdin(self) -> None:
        """See `commands.close_stdin`."""
        await self._envd.close_stdin(self.pid)

    async def disconnect(self) -> None:
        """Stops reading; the command runs on, and its output is dropped while nobody is connected."""
        if not self._over:
            self._over = True
            self._error = ConnectionLostError("disconnected from the command", hint="commands.connect(pid)")
        await self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.disconnect()

    def __repr__(self) -> str:
        state = "running" if self._end is None else f"exit_code={self._end.exit_code}"
        return f"<AsyncCommandHandle pid={self.pid} {state}>"

    async def feed(self, data: bytes) -> None:
        """Sends all of its input and closes it. A command that ends without reading it is no error, as with a pipe;
        whatever else goes wrong kills it, lest it take a part for the whole."""
        try:
            wait = self._timeout + GRACE if self._timeout else DAY
            await self._envd.send_stdin(self.pid, data, timeout=wait)
            await self._envd.close_stdin(self.pid)
        except (ProcessNotFoundError, InternalError):
            pass
        except WrennError as exc:
            self._feed_error = exc
            with suppress(WrennError):
                await self.kill()

    async def _next(self) -> Output | None:
        async with self._lock:
            output = await self._read()
        if output is not None:
            callback = self._callbacks[output.stream]
            if callback is not None and output.text:
                await async_settled(callback(output.text))
        return output

    async def _read(self) -> Output | None:
        while not self._over:
            event = await self._event()
            if event is None:
                self._over = True
                await self._stream.close()
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

    async def _event(self) -> ProcessEvent | None:
        try:
            event = await self._stream.next()
            if self._deadline is not None and time.monotonic() > self._deadline + GRACE:
                raise ServerTimeoutError("the deadline has passed")
            return event
        except ServerTimeoutError as exc:
            limit = f" after {self._timeout:g} s" if self._timeout else ""
            error = CommandTimeoutError(f"the command was killed at its deadline{limit}", self._result())
            await self._failed(error)
            raise error from exc
        except (ConnectionLostError, RequestTimeoutError, GuestError) as exc:
            error = await self._envd.explained(exc)
            await self._failed(error)
            raise error from exc
        except WrennError as exc:
            await self._failed(exc)
            raise

    async def _failed(self, error: WrennError) -> None:
        self._over = True
        self._error = error
        await self._stream.close()

    def _result(self) -> CommandResult:
        end = self._end
        return CommandResult(
            exit_code=-1 if end is None else end.exit_code,
            status="" if end is None else end.status,
            error=None if end is None or end.error == end.status else end.error,
            stdout_bytes=self._kept["stdout"].kept(),
            stderr_bytes=self._kept["stderr"].kept(),
            pid=self.pid,
            truncated=any(kept.truncated for kept in self._kept.values()),
        )
