"""What a run of the matrix has shown, and the tables of it in `docs/durability.md`."""

from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from faults.matrix import Row

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/durability.md"
BEGIN, END = "<!-- written by `make faults`: begin {name} -->", "<!-- end {name} -->"
_HEAD = 2
"""Lines of a table before its rows."""


class Told(NamedTuple):
    """A row as the document has it."""

    operation: str
    point: str
    expected: str
    passes: int
    back: str = ""
    """How long it took at worst, where the table tells that."""


class Results:
    """Passes of the rows of one table in this run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tries: Counter[str] = Counter()
        self._passes: Counter[str] = Counter()
        self._back: dict[str, float] = {}

    @contextmanager
    def of(self, row: Row) -> Generator[None]:
        """One try; left without an error, it passed."""
        self._tries[row.name] += 1
        yield
        self._passes[row.name] += 1

    def back(self, row: Row, seconds: float) -> None:
        """After how long everything was as it should be."""
        self._back[row.name] = max(seconds, self._back.get(row.name, 0.0))

    def write(self, matrix: Iterable[Row]) -> None:
        """Into the document. Rows that were not run keep their number; one that fell once has none."""
        before, table, after = _split(DOCUMENT.read_text(), self._name)
        known = {told[:3]: told for told in documented(self._name)}
        lines = table.strip().splitlines()[:_HEAD]
        for row in matrix:
            told = (row.operation, row.point, row.expected)
            _, _, _, passes, back = known.get(told, Told(*told, 0))
            if tries := self._tries[row.name]:
                passes = tries if self._passes[row.name] == tries else 0
                back = f"{self._back[row.name]:.1f} s" if row.name in self._back else back
            timed = f" {back} |" if "back after" in lines[0] else ""
            lines.append(f"| {row.operation} | `{row.point}` | {row.expected} | {passes} |{timed}")
        DOCUMENT.write_text(before + "\n" + "\n".join(lines) + "\n" + after)


def documented(name: str) -> list[Told]:
    lines = _split(DOCUMENT.read_text(), name)[1].strip().splitlines()[_HEAD:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        Told(operation, point.strip("`"), expected, int(n), *back)
        for operation, point, expected, n, *back in cells
    ]


def _split(text: str, name: str) -> tuple[str, str, str]:
    """The document up to the table, the table, and the rest."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, rest = text.split(begin)
    table, after = rest.split(end)
    return before + begin, table, end + after
