"""The fault matrix: which program dies where, in the middle of what, and what its successor must make of it."""

import ast
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "server/src/wrenn_server"
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))
"""How often each row is run; 0: once, those that boot no VM of their own and some of the others."""


@dataclass(frozen=True, slots=True)
class Row:
    operation: str
    point: str
    expected: str
    """State of the operation's sandbox after the restart."""
    quick: bool = False
    """Run without FAULT_ROUNDS, too."""

    @property
    def name(self) -> str:
        return f"{self.operation}-{self.point}".replace(" ", "_")


def points() -> set[str]:
    """Names of all crash points in the source; each stands there once, as a literal."""
    found: list[str] = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("crash_point"):
                [name] = node.args
                found.append(ast.literal_eval(name))
    assert len(found) == len(set(found)), sorted(found)
    return set(found)


def rows(operation: str, expected: dict[str, str], *, quick: Iterable[str] = ()) -> list[Row]:
    """:param expected: state after the restart, by point; :param quick: points that are passed in every run"""
    return [Row(operation, point, state, point in quick) for point, state in expected.items()]


def runs(matrix: Iterable[Row]) -> list[tuple[Row, int]]:
    """Each row as often as this run wants it."""
    if not ROUNDS:
        return [(row, 1) for row in matrix if row.quick]
    return [(row, number) for number in range(1, ROUNDS + 1) for row in matrix]
