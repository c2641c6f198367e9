"""A run's figures as a table for people and as `results.json` for programs."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results.json")


def p99(samples: Sequence[float]) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured thing beside its floor; `ratio` is p50 over the floor's p50."""

    name: str
    samples: Sequence[float]
    unit: str
    floor: Sequence[float]
    target: float | None = None
    """The highest ratio that design.md allows."""

    @property
    def p50(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        return p99(self.samples)

    @property
    def floor_p50(self) -> float:
        return statistics.median(self.floor)

    @property
    def ratio(self) -> float:
        return self.p50 / self.floor_p50

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "n": len(self.samples),
            "p50": round(self.p50, 3),
            "p99": round(self.p99, 3),
            "unit": self.unit,
            "floor_p50": round(self.floor_p50, 3),
            "ratio": round(self.ratio, 3),
        }


def write(figures: Sequence[Figure], machine: dict[str, object], path: Path = RESULTS) -> None:
    text = json.dumps({"machine": machine, "figures": [figure.as_dict() for figure in figures]}, indent=2)
    path.write_text(text + "\n")


def show(figures: Sequence[Figure], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("figure", "n", "p50", "p99", "unit", "floor p50", "ratio", "target"):
        table.add_column(heading, justify="left" if heading in {"figure", "unit"} else "right")
    for figure in figures:
        table.add_row(
            figure.name,
            str(len(figure.samples)),
            f"{figure.p50:.1f}",
            f"{figure.p99:.1f}",
            figure.unit,
            f"{figure.floor_p50:.1f}",
            f"{figure.ratio:.2f}",
            "" if figure.target is None else f"<= {figure.target:.2f}",
        )
    console.print(table)


def machine() -> dict[str, object]:
    """What the run was made on; nothing that names the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    total = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    return {
        "cpu": model,
        "cpus": sum(line.startswith("processor") for line in lines),
        "memory_mb": int(total.split()[1]) // 1024,
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }
