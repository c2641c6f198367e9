"""What a run of the matrix has shown, and the table of it in `docs/durability.md`."""

from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from faults.matrix import Row

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/durability.md"
BEGIN, END = "<!-- written by `make faults`: begin {name} -->", "<!-- end {name} -->"


class Results:
    """Passes of the rows of one program's matrix in this run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tries: Counter[str] = Counter()
        self._passes: Counter[str] = Counter()

    @contextmanager
    def of(self, row: Row) -> Generator[None]:
        """One try; left without an error, it passed."""
        self._tries[row.name] += 1
        yield
        self._passes[row.name] += 1

    def write(self, matrix: Iterable[Row]) -> None:
        """Into the document. Rows that were not run keep their number; one that fell once has none."""
        before, _, after = _split(DOCUMENT.read_text(), self._name)
        known = {told[:3]: told[3] for told in documented(self._name)}
        lines = ["| in the middle of | the program dies at | and then it is | passes |", "|---|---|---|---|"]
        for row in matrix:
            told = (row.operation, row.point, row.expected)
            passes = known.get(told, 0)
            if tries := self._tries[row.name]:
                passes = tries if self._passes[row.name] == tries else 0
            lines.append(f"| {row.operation} | `{row.point}` | {row.expected} | {passes} |")
        DOCUMENT.write_text(before + "\n" + "\n".join(lines) + "\n" + after)


def documented(name: str) -> list[tuple[str, str, str, int]]:
    """Operation, point, expectation and passes, as the document has them."""
    lines = _split(DOCUMENT.read_text(), name)[1].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(operation, point.strip("`"), expected, int(n)) for operation, point, expected, n in cells]


def _split(text: str, name: str) -> tuple[str, str, str]:
    """The document up to the table, the table, and the rest."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, rest = text.split(begin)
    table, after = rest.split(end)
    return before + begin, table, end + after
