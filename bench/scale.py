"""`python -m bench.scale`: one control plane and one PostgreSQL with 1,000 hosts and 100,000 sandboxes.

PostgreSQL is the embedded one, on disk, with fsync; the control plane is `wrenn-cp` in a process of its own. Hosts are
simulated: this program beats and sends samples for all of them, and one server answers at once in their place. What is
measured includes the client's own time. Processor time is that of the control plane's process.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import uvloop
from rich.console import Console
from rich.table import Table

from bench import report, scale_fill, scale_plans
from bench.edge_machine import Running
from bench.scale_hosts import Hosts
from bench.scale_plans import Plan
from bench.scale_world import Postgres, agents, control_plane
from wrenn_server.controlplane import bootstrap
from wrenn_server.db import embedded, migrate, pool

RESULTS = Path(__file__).with_name("scale.json")
HOSTS, SANDBOXES, SECONDS, CREATES = 1_000, 100_000, 60, 1_000
FEW = 1_000
"""Sandboxes that the figures at their full number are compared with."""
WARM_UP = 50
PAGE = 100
FAST_MS = 20.0
RATIO = 1.2
CORES = 0.5
ARRIVED = 0.95
"""Share of what is due that must arrive: a control plane that falls behind uses less of a core, not enough of one."""


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    unit: str
    samples: Sequence[float]
    target: str = ""
    holds: bool | None = None

    @property
    def p50(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        return report.p99(self.samples)

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name, "n": len(self.samples), "p50": round(self.p50, 3), "p99": round(self.p99, 3),
            "unit": self.unit, "target": self.target, "holds": self.holds,
        }  # fmt: skip


@dataclass(slots=True)
class Bench:
    """Samples of one run, by name."""

    http: httpx2.AsyncClient
    cp: Running
    postgres: Postgres
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    plans: list[Plan] = field(default_factory=list[Plan])

    def note(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    async def timed(self, name: str, call: Awaitable[httpx2.Response], status: int) -> httpx2.Response:
        """Notes its milliseconds."""
        began = time.perf_counter()
        response = await call
        self.note(name, (time.perf_counter() - began) * 1000)
        if response.status_code != status:
            raise RuntimeError(f"{name}: {response.status_code} {response.text}")
        return response

    async def creates(self, name: str, count: int) -> None:
        """One after the other; each is killed again, so that their number stays."""
        for number in range(WARM_UP + count):
            if number == WARM_UP:
                self.samples.pop(f"create {name}")
                self.samples.pop(f"kill {name}")
            made = await self.timed(f"create {name}", self.http.post("/v1/sandboxes", json={}), 201)
            sandbox = f"/v1/sandboxes/{made.json()['id']}"
            await self.timed(f"kill {name}", self.http.delete(sandbox), 204)

    async def pages(self, name: str, count: int) -> None:
        """Of the team with the most sandboxes, one after the other, from the newest on."""
        cursor: dict[str, Any] = {}
        for number in range(WARM_UP + count):
            if number == WARM_UP:
                self.samples.pop(f"list {name}")
            asked = self.http.get("/v1/sandboxes", params={"limit": PAGE, **cursor})
            page = await self.timed(f"list {name}", asked, 200)
            following = page.headers.get("x-next-cursor")
            cursor = {"cursor": following} if following else {}

    async def at(self, name: str, count: int) -> None:
        await self.creates(name, count)
        await self.pages(name, count)

    async def storm(self, hosts: Hosts) -> None:
        """All hosts at once, as when a control plane comes back."""
        used, began = self.cp.cpu(), time.perf_counter()
        await asyncio.gather(*(hosts.beat(number) for number in range(hosts.count)))
        self.note("storm", time.perf_counter() - began)
        self.note("storm cpu", self.cp.cpu() - used)

    async def load(self, name: str, hosts: Hosts, seconds: float, *, usage: bool) -> None:
        """Heartbeats, and samples if wanted, of all hosts as often as agents send them; creates and pages beside it."""
        chance = random.Random(1)
        hosts.taken = 0
        async with asyncio.TaskGroup() as group:
            lives = [
                group.create_task(hosts.live(number, chance.random(), self.note, name, usage=usage))
                for number in range(hosts.count)
            ]
            beside = group.create_task(self._beside(name))
            used, database, began = self.cp.cpu(), self.postgres.cpu(), time.perf_counter()
            await asyncio.sleep(seconds)
            took = time.perf_counter() - began
            self.note(f"cpu {name}", (self.cp.cpu() - used) / took)
            self.note(f"database cpu {name}", (self.postgres.cpu() - database) / took)
            self.note(f"samples {name}", hosts.taken / took)
            beats = len(self.samples.get(f"beat {name}", ()))
            arrived = hosts.taken / hosts.samples_due if usage else beats / hosts.beats_due
            self.note(f"arrived {name}", arrived / took)
            for task in (*lives, beside):
                task.cancel()

    async def _beside(self, name: str) -> None:
        while True:
            await asyncio.sleep(0.5)
            made = await self.timed(f"create {name}", self.http.post("/v1/sandboxes", json={}), 201)
            await self.timed(f"kill {name}", self.http.delete(f"/v1/sandboxes/{made.json()['id']}"), 204)
            await self.timed(f"list {name}", self.http.get("/v1/sandboxes", params={"limit": PAGE}), 200)

    def figures(self, few: str, many: str) -> list[Figure]:
        def fast(name: str) -> Figure:
            samples = self.samples[name]
            return Figure(name, "ms", samples, f"p99 <= {FAST_MS:.0f} ms", report.p99(samples) <= FAST_MS)

        def plain(name: str, unit: str) -> Figure:
            return Figure(name, unit, self.samples[name])

        def cores(name: str, arrived: Figure) -> Figure:
            used = self.samples[name]
            return Figure(name, "cores", used, f"<= {CORES}", bool(arrived.holds) and used[0] <= CORES)

        before, after = fast(f"create {few}"), fast(f"create {many}")
        ratio = after.p99 / before.p99
        found = [
            before, after,
            Figure("create, p99 to p99", "x", [ratio], f"<= {RATIO}", ratio <= RATIO),
            plain(f"kill {few}", "ms"), plain(f"kill {many}", "ms"), fast(f"list {few}"), fast(f"list {many}"),
            plain("storm", "s"), plain("storm cpu", "s"),
        ]  # fmt: skip
        for name in ("heartbeats", "heartbeats and usage"):
            share = self.samples[f"arrived {name}"]
            arrived = Figure(f"arrived {name}", "x", share, f">= {ARRIVED}", share[0] >= ARRIVED)
            found += [
                arrived,
                cores(f"cpu {name}", arrived),
                plain(f"database cpu {name}", "cores"),
                plain(f"beat {name}", "ms"),
            ]
            beside = [f"{what} {name}" for what in ("create", "list")]
            # In a short run of an overloaded machine none of them may have ended.
            found += [plain(one, "ms") for one in beside if one in self.samples]
        found += [plain("samples heartbeats and usage", "1/s"), plain("batch heartbeats and usage", "ms")]
        wrong = [plan for plan in self.plans if not plan.is_right]
        found.append(Figure("hot statements that scan", "n", [len(wrong)], "0", not wrong))
        return found


async def measure(console: Console, directory: Path, words: argparse.Namespace) -> list[Figure]:
    few, many = f"at {min(FEW, words.sandboxes):,}", f"at {words.sandboxes:,}"
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded.server(directory / "postgres"))
        await migrate.up(url)
        db = await stack.enter_async_context(pool.connect(url, max_size=4))
        admin = await bootstrap.bootstrap(db, "scale@example.com", None)
        address = await stack.enter_async_context(agents())
        await scale_fill.places(db, hosts=words.hosts, address=address)
        cp = await stack.enter_async_context(control_plane(directory, url))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{cp.port}", trust_env=False, timeout=60,
                headers={"X-API-Key": admin.api_key}, limits=httpx2.Limits(max_connections=64),
            )
        )  # fmt: skip
        bench = Bench(http, cp, Postgres.at(directory / "postgres"))

        async def fill(before: int, alive: int) -> None:
            began = time.perf_counter()
            await scale_fill.sandboxes(
                db, team_id=admin.team_id, hosts=words.hosts, before=before, alive=alive
            )
            await db.execute("VACUUM ANALYZE")
            console.print(f"{alive:,} sandboxes after {time.perf_counter() - began:.0f} s", highlight=False)

        first = min(FEW, words.sandboxes)
        await fill(0, first)
        await bench.at(few, words.creates)
        if words.sandboxes > first:
            await fill(first, words.sandboxes)
            await bench.at(many, words.creates)
        hosts = await Hosts.of(db, http, address)
        await bench.storm(hosts)
        await bench.load("heartbeats", hosts, words.seconds, usage=False)
        await bench.load("heartbeats and usage", hosts, words.seconds, usage=True)
        await db.execute("ANALYZE")
        bench.plans = await scale_plans.explain(db, admin.team_id, *await scale_plans.some(db))
        show_plans(bench.plans, console)
        return bench.figures(few, many)


def show(figures: Sequence[Figure], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("figure", "n", "p50", "p99", "unit", "target", ""):
        table.add_column(heading, justify="left" if heading in {"figure", "unit", "target"} else "right")
    verdict: Callable[[Figure], str] = lambda f: "" if f.holds is None else "holds" if f.holds else "FAILS"  # noqa: E731
    for figure in figures:
        table.add_row(
            figure.name, str(len(figure.samples)), f"{figure.p50:.2f}", f"{figure.p99:.2f}", figure.unit,
            figure.target, verdict(figure),
        )  # fmt: skip
    console.print(table)


def show_plans(plans: Sequence[Plan], console: Console) -> None:
    for plan in plans:
        if plan.scans:
            kind, mark = "generic" if plan.generic else "custom", "" if plan.is_right else "  WRONG"
            console.print(f"{plan.name} ({kind}) reads all of {', '.join(sorted(plan.scans))}{mark}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--sandboxes", type=int, default=SANDBOXES)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each of the two loads; heartbeats come every 30"
    )
    parser.add_argument(
        "--creates", type=int, default=CREATES, help="at each number of sandboxes; as many pages"
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="where the database is; on a disk"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    words = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="wrenn-scale-", dir=words.directory) as directory:
        Path(directory).chmod(0o711)
        figures = uvloop.run(measure(console, Path(directory), words))
    show(figures, console)
    sizes = {"hosts": words.hosts, "sandboxes": words.sandboxes, "seconds": words.seconds}
    found = {"machine": report.machine(), **sizes, "figures": [figure.as_dict() for figure in figures]}
    words.results.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(figure.holds is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
