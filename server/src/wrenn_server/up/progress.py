"""Progress of long steps: bars on a terminal, one line a step elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """The images' `Progress`, and the steps of `up`, on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, step: str, total: int | None = None) -> None:
        if step in self._tasks:
            self._bars.update(self._tasks[step], total=total)
            return
        self._started[step] = time.monotonic()
        self._tasks[step] = self._bars.add_task(step, total=total, note="")
        if not self.console.is_terminal:
            self.console.print(f"==> {step}", highlight=False)

    def advance(self, step: str, amount: int = 1) -> None:
        self._bars.advance(self._tasks[step], amount)

    def line(self, step: str, text: str) -> None:
        """The newest line of a step's output, shown beside its bar."""
        printable = "".join(character for character in text.strip() if character.isprintable())
        self._bars.update(self._tasks[step], note=escape(printable[:60]))

    def done(self, step: str) -> None:
        self._bars.update(self._tasks[step], total=1, completed=1, note="")
        if not self.console.is_terminal:
            seconds = time.monotonic() - self._started[step]
            self.console.print(f"    {step}: {seconds:.1f} s", highlight=False)
