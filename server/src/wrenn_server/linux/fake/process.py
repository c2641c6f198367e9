"""A process that ends when it is told to. Twin of `linux/process.Process`."""

import asyncio
import signal


class FakeProcess:
    def __init__(self, pid: int = 4242, started: int = 1) -> None:
        self.pid = pid
        self.started = started
        self.signals: list[signal.Signals] = []
        self.closed = False
        self._code: int | None = None
        self._ended = asyncio.Event()

    def end(self, code: int | None) -> None:
        """The process ends with this exit code, `-n` for signal n; None: only its parent knows."""
        self._code = code
        self._ended.set()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.signals.append(number)
        if number is signal.SIGKILL and not self._ended.is_set():
            self.end(-number)

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self._code

    def close(self) -> None:
        self.closed = True
