"""Every public method of an SDK has a row, or a reason for having none."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compat import environments, table
from compat.flavours import FLAVOURS, Flavour, Mode, Suite
from compat.scope import is_covered_elsewhere
from compat.table import Table

SDKS = [flavour for flavour in FLAVOURS if flavour.suite is Suite.SDK]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coverage")


def listed(flavour: Flavour, scratch: Path) -> dict[str, Any]:
    command = [*environments.command(flavour, scratch), "--list"]
    completed = subprocess.run(command, cwd=environments.HERE, capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


@pytest.mark.parametrize("flavour", SDKS, ids=lambda flavour: flavour.name)
def test_every_public_method_has_a_row(flavour: Flavour, scratch: Path) -> None:
    found = listed(flavour, scratch)
    covered = {method for row in found["rows"] for method in row["covers"]}
    missing = [
        method for method in found["methods"] if method not in covered and not is_covered_elsewhere(method)
    ]
    assert missing == []
    assert len(covered) > 50


@pytest.mark.parametrize("flavour", SDKS, ids=lambda flavour: flavour.name)
def test_no_row_claims_a_method_that_it_does_not_use(flavour: Flavour, scratch: Path) -> None:
    rows = listed(flavour, scratch)["rows"]
    assert {row["row"]: row["unused"] for row in rows if row["unused"]} == {}
    assert len({row["row"] for row in rows}) == len(rows)


def outcomes_of(*rows: str) -> dict[str, bool]:
    return dict.fromkeys(rows, True)


def test_a_table_is_read_as_it_was_written() -> None:
    made = Table()
    made.replace(SDKS[0], Mode.LOOPBACK, {"a.b | one": True, "c.d | two, three": False})
    made.replace(SDKS[0], Mode.DOMAIN, {"c.d | two, three": True})
    made.replace(SDKS[1], Mode.DOMAIN, {"a.b | other": True})
    assert made.rows[Suite.SDK] == ["a.b | one", "a.b | other", "c.d | two, three"]
    text = table.render(made)
    assert table.parse(text) == made
    assert table.render(table.parse(text)) == text
    assert "| `c.d` | two, three | **fail** / pass |" in text


def test_a_new_run_replaces_its_column_alone() -> None:
    made = Table()
    made.replace(SDKS[0], Mode.LOOPBACK, outcomes_of("a | one", "b | two"))
    made.replace(SDKS[1], Mode.LOOPBACK, outcomes_of("a | one"))
    made.replace(SDKS[0], Mode.LOOPBACK, outcomes_of("a | one"))
    made.forget_unused_rows()
    assert made.rows[Suite.SDK] == ["a | one"]
    assert len(made.cells) == 2
