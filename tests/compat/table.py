"""docs/compatibility.md: what is checked, with which SDK, in which mode, and whether it holds. No dates and no times:
a run that finds what the last one found leaves the file as it is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compat.flavours import FLAVOURS, Flavour, Mode, Suite
from compat.scope import NOT_COVERED

PASS, FAIL, NOT_RUN, NOT_THERE = "pass", "**fail**", "·", "–"
MARKS = {True: PASS, False: FAIL}
TITLES = {Suite.SDK: "SDKs", Suite.CODE_INTERPRETER: "Code Interpreter SDKs"}
INTRODUCTION = """# Compatibility with E2B's SDKs

Written by `pytest tests/compat`, which runs the packages as published against a platform started by `wrenn up`.

Each cell tells *loopback / domain*. Loopback: one plain-HTTP port, `E2B_API_URL` and `E2B_SANDBOX_URL` (`wrenn.env`
has them). Domain: TLS under a wildcard domain, `E2B_DOMAIN`; the cases whose outcome can depend on it run there
too. `·` does not depend on the mode and is not run twice; `–` the SDK has no such method, or no such way to call it.
Names are those of the Python SDK; JavaScript's are the same in camel case (`pty.send_stdin` is `pty.sendInput`).
"""


@dataclass(frozen=True, slots=True)
class Cell:
    row: str
    flavour: Flavour
    mode: Mode


@dataclass(slots=True)
class Table:
    """`rows` in the order in which they are shown; a cell that is missing was not run, or cannot be."""

    rows: dict[Suite, list[str]] = field(default_factory=lambda: {suite: [] for suite in Suite})
    cells: dict[Cell, bool] = field(default_factory=dict[Cell, bool])

    def replace(self, flavour: Flavour, mode: Mode, outcomes: Mapping[str, bool]) -> None:
        """One column of one mode, as a run found it."""
        self.cells = {
            cell: holds for cell, holds in self.cells.items() if (cell.flavour, cell.mode) != (flavour, mode)
        }
        self.cells |= {Cell(row, flavour, mode): holds for row, holds in outcomes.items()}
        rows = self.rows[flavour.suite]
        self.rows[flavour.suite] = merged(rows, [row for row in outcomes if row not in rows])

    def forget_unused_rows(self) -> None:
        used = {cell.row for cell in self.cells}
        self.rows = {suite: [row for row in rows if row in used] for suite, rows in self.rows.items()}


def merged(rows: Sequence[str], new: Iterable[str]) -> list[str]:
    """Rows of a method stay together; methods in the order in which they came."""
    everything = [*rows, *new]
    methods = list(dict.fromkeys(map(method_of, everything)))
    return sorted(everything, key=lambda row: methods.index(method_of(row)))


def method_of(row: str) -> str:
    return row.partition(" | ")[0]


def flavours_of(suite: Suite) -> list[Flavour]:
    return [flavour for flavour in FLAVOURS if flavour.suite is suite]


def render(table: Table) -> str:
    parts = [INTRODUCTION]
    for suite in Suite:
        flavours = flavours_of(suite)
        lines = [
            f"## {TITLES[suite]}\n",
            "| method | what is checked | " + " | ".join(flavour.name for flavour in flavours) + " |",
            "|---|---|" + "---|" * len(flavours),
        ]
        for row in table.rows[suite]:
            marks = [cell_text(table, row, flavour) for flavour in flavours]
            method, _, title = row.partition(" | ")
            lines.append(f"| `{method}` | {title} | " + " | ".join(marks) + " |")
        parts.append("\n".join(lines) + "\n")
    lines = ["## Not covered\n", *(f"- {methods}: {reason}" for methods, reason in NOT_COVERED.items())]
    return "\n".join([*parts, "\n".join(lines)]) + "\n"


def cell_text(table: Table, row: str, flavour: Flavour) -> str:
    marks = [table.cells.get(Cell(row, flavour, mode)) for mode in Mode]
    if all(mark is None for mark in marks):
        return NOT_THERE
    return " / ".join(NOT_RUN if mark is None else MARKS[mark] for mark in marks)


def parse(text: str) -> Table:
    """What `render` wrote; columns of other versions than today's are left out."""
    table = Table()
    suite: Suite | None = None
    flavours: list[Flavour | None] = []
    for line in text.splitlines():
        if line.startswith("## "):
            suite = next((known for known, title in TITLES.items() if title == line[3:]), None)
        words = [word.strip() for word in line.strip("|").split(" | ")]
        if suite is None or not line.startswith("| "):
            continue
        if words[0] == "method":
            by_name = {flavour.name: flavour for flavour in flavours_of(suite)}
            flavours = [by_name.get(name) for name in words[2:]]
            continue
        row = f"{words[0].strip('`')} | {words[1]}"
        table.rows[suite].append(row)
        for flavour, text_of_cell in zip(flavours, words[2:], strict=True):
            for mode, mark in zip(Mode, text_of_cell.split(" / "), strict=False):
                if flavour is not None and mark in MARKS.values():
                    table.cells[Cell(row, flavour, mode)] = mark == PASS
    return table
