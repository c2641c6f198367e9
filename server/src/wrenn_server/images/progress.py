"""How a long build tells what it does. Steps run side by side, so every call names its step."""

import time
from typing import Protocol, TextIO


class Progress(Protocol):
    def start(self, step: str, total: int | None = None) -> None:
        """A step begins, or the total of a running one becomes known. `total` counts what `advance` counts."""
        ...

    def advance(self, step: str, amount: int = 1) -> None: ...

    def line(self, step: str, text: str) -> None:
        """One line of a tool's output, as the tool wrote it: limit and escape it before a terminal shows it."""
        ...

    def done(self, step: str) -> None: ...


class Silent:
    """The progress that nobody watches."""

    def start(self, step: str, total: int | None = None) -> None:
        pass

    def advance(self, step: str, amount: int = 1) -> None:
        pass

    def line(self, step: str, text: str) -> None:
        pass

    def done(self, step: str) -> None:
        pass


class Lines:
    """One line a finished step, for a terminal or a log."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._started: dict[str, float] = {}

    def start(self, step: str, total: int | None = None) -> None:
        if step not in self._started:
            self._started[step] = time.monotonic()

    def advance(self, step: str, amount: int = 1) -> None:
        pass

    def line(self, step: str, text: str) -> None:
        pass

    def done(self, step: str) -> None:
        seconds = time.monotonic() - self._started.pop(step)
        self._output.write(f"{step}: {seconds:.1f} s\n")
        self._output.flush()
