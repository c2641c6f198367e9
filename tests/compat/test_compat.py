"""Every cell of docs/compatibility.md, checked with the unmodified SDKs.

The cells come from the document as it is checked in: one that does not hold any more fails, and so does a run that
has other rows than the document. COMPAT_ONLY=TEXT runs only rows with that text.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat import table
from compat.flavours import FLAVOURS, Flavour, Mode
from compat.runs import Runs
from compat.table import Table

DOCUMENT = Path(__file__).parents[2] / "docs/compatibility.md"
KNOWN = table.parse(DOCUMENT.read_text()) if DOCUMENT.exists() else Table()
ONLY = os.environ.get("COMPAT_ONLY", "")

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]


def column(flavour: Flavour, mode: Mode) -> str:
    return f"{flavour.name} {flavour.suite} {mode}".replace(" ", "-").lower()


def columns() -> Iterator[object]:
    for mode in Mode:
        for flavour in FLAVOURS:
            yield pytest.param(flavour, mode, id=column(flavour, mode))


def cells() -> Iterator[object]:
    order = {
        (flavour, mode): number
        for number, (mode, flavour) in enumerate((mode, flavour) for mode in Mode for flavour in FLAVOURS)
    }
    for cell in sorted(KNOWN.cells, key=lambda cell: order[cell.flavour, cell.mode]):
        if ONLY in cell.row:
            name = f"{column(cell.flavour, cell.mode)}-{cell.row.replace(' | ', '-')}"
            yield pytest.param(cell.row, cell.flavour, cell.mode, id=name)


@pytest.mark.parametrize(("flavour", "mode"), [*columns()])
def test_rows_are_those_of_the_table(flavour: Flavour, mode: Mode, runs: Runs) -> None:
    known = {cell.row for cell in KNOWN.cells if (cell.flavour, cell.mode) == (flavour, mode)}
    outcomes = runs.outcomes(flavour, mode)
    new = "".join(
        f"\n--- new: {row}\n{error or 'pass'}" for row, error in outcomes.items() if row not in known
    )
    gone = "".join(f"\n--- gone: {row}" for row in known if row not in outcomes and ONLY in row)
    assert not new + gone, new + gone


@pytest.mark.parametrize(("row", "flavour", "mode"), [*cells()])
def test_row_holds(row: str, flavour: Flavour, mode: Mode, runs: Runs) -> None:
    outcomes = runs.outcomes(flavour, mode)
    assert row in outcomes, "no such case any more"
    assert outcomes[row] is None, outcomes[row]


def test_the_table_tells_what_was_run(runs: Runs) -> None:
    """Columns that were not run keep what they say."""
    if ONLY:
        pytest.skip("COMPAT_ONLY: a part of the rows makes no table")
    finished = runs.finished()
    if not finished:
        pytest.skip("no SDK was run")
    before = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    now = table.parse(before)
    for (flavour, mode), outcomes in finished.items():
        now.replace(flavour, mode, {row: error is None for row, error in outcomes.items()})
    now.forget_unused_rows()
    after = table.render(now)
    DOCUMENT.write_text(after)
    assert after == before, f"{DOCUMENT.name} was written anew: read what changed and commit it"
