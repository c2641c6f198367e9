"""`python -m bench.edge`: the edge beside nginx in front of the same servers, in one run, round by round.

Both have one process. The load generator and the servers share the machine's cores with them, so that requests per
second say less than the CPU time of a request does: `requests/s per core` is requests by seconds of CPU.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import median

import uvloop
from rich.console import Console
from rich.table import Table

from bench import edge_machine as machine
from bench import report
from bench.edge_machine import Running
from bench.edge_programs import SANDBOX

ROUNDS = 20
RESULTS = Path(__file__).with_name("edge.json")
MIB = 1 << 20
BIG = 100 * MIB
GIB = 1024 * MIB
SMALL = b'{"status":"ok","value":12345}\n'
WEBSOCKETS = 1000


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the servers. Ports of servers are named by the host name for the edge, by the path for nginx."""

    name: str
    process: Running | None
    """None: straight to the servers."""
    origin: int
    server: int
    behind: tuple[int, int]
    """The ports of origin and server themselves."""

    @property
    def files_host(self) -> str:
        return f"{self.behind[0]}-{SANDBOX}.sandboxes.example"

    @property
    def server_host(self) -> str:
        return f"{self.behind[1]}-{SANDBOX}.sandboxes.example"


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    unit: str
    edge: list[float]
    nginx: list[float]
    target: str = ""
    holds: Callable[["Figure"], bool] | None = None

    @property
    def ratio(self) -> float:
        nginx = median(self.nginx)
        return median(self.edge) / nginx if nginx else float("nan")

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "n": len(self.edge),
            "unit": self.unit,
            "edge_p50": round(median(self.edge), 3),
            "nginx_p50": round(median(self.nginx), 3),
            "ratio": None if isnan(self.ratio) else round(self.ratio, 3),
            "target": self.target,
            "holds": None if self.holds is None else self.holds(self),
        }


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def note(self, figure: str, way: Way, value: float) -> None:
        self.samples[figure, way.name].append(value)

    async def small(self, way: Way) -> None:
        load = await machine.load(
            self.directory, way.origin, "/small", way.files_host, connections=1, seconds=1
        )
        self.note("latency", way, load.p50 * 1000)
        if way.process is None:
            return
        before = way.process.cpu()
        load = await machine.load(
            self.directory, way.origin, "/small", way.files_host, connections=16, seconds=2
        )
        cpu = way.process.cpu() - before
        self.note("requests", way, load.requests / load.seconds)
        self.note("per core", way, load.requests / cpu)
        self.note("cpu", way, cpu / load.requests * 1e6)
        self.note("p99", way, load.p99 * 1000)

    async def big(self, way: Way) -> None:
        for figure, transfer, port, path, host in (
            ("download", machine.download, way.origin, "/big", way.files_host),
            ("upload", machine.upload, way.server, "/server", way.server_host),
        ):
            before = 0.0 if way.process is None else way.process.cpu()
            seconds = await asyncio.to_thread(transfer, port, path, host, BIG)
            self.note(figure, way, BIG / MIB / seconds)
            if way.process is not None:
                self.note(f"{figure} cpu", way, (way.process.cpu() - before) * 1000)

    async def idle(self, way: Way) -> None:
        if way.process is None:
            return
        before = way.process.memory()
        async with machine.websockets(way.server, "/server", way.server_host, WEBSOCKETS) as opened:
            self.note("websocket memory", way, (way.process.memory() - before) / WEBSOCKETS / 1024)
            for websocket in opened:
                self.note("websocket first message", way, await websocket.echo() * 1000)

    async def streams(self, way: Way) -> None:
        """1 GiB up and 1 GiB down at once."""
        assert way.process is not None
        await asyncio.to_thread(machine.download, way.origin, "/big", way.files_host, BIG)
        before = way.process.memory(highest=True)
        await asyncio.gather(
            asyncio.to_thread(machine.download, way.origin, "/gib", way.files_host, GIB),
            asyncio.to_thread(machine.upload, way.server, "/server", way.server_host, GIB),
        )
        self.note("memory of 1 GiB", way, (way.process.memory(highest=True) - before) / MIB)

    def added(self) -> float:
        """Milliseconds at the median that the edge adds to a request without any other."""
        return median(self.samples["latency", "edge"]) - median(self.samples["latency", "direct"])

    def figures(self) -> list[Figure]:
        def figure(
            key: str, name: str, unit: str, target: str = "", holds: Callable[[Figure], bool] | None = None
        ) -> Figure:
            return Figure(name, unit, self.samples[key, "edge"], self.samples[key, "nginx"], target, holds)

        return [
            figure("per core", "requests/s per core", "1/s", ">= 0.35 x", lambda f: f.ratio >= 0.35),
            figure("requests", "requests/s", "1/s"),
            figure("cpu", "CPU of a request", "us"),
            figure("p99", "p99 under load", "ms"),
            figure("latency", "p50 alone", "ms", "direct + 1 ms", lambda _: self.added() <= 1.0),
            figure("download", "100 MiB down", "MiB/s", ">= 0.8 x", lambda f: f.ratio >= 0.8),
            figure("upload", "100 MiB up", "MiB/s", ">= 0.8 x", lambda f: f.ratio >= 0.8),
            figure("download cpu", "CPU of 100 MiB down", "ms"),
            figure("upload cpu", "CPU of 100 MiB up", "ms"),
            figure("websocket memory", "memory of an idle WebSocket", "KiB"),
            figure("websocket first message", "first message of it", "ms"),
            figure(
                "memory of 1 GiB",
                "memory for 1 GiB up and down",
                "MiB",
                "<= 16 MiB",
                lambda f: f.edge[0] <= 16,
            ),
        ]

    def others(self) -> dict[str, float]:
        return {
            "direct_p50_ms": round(median(self.samples["latency", "direct"]), 3),
            "added_p50_ms": round(self.added(), 3),
            "added_p50_with_tunnel_ms": round(
                median(self.samples["latency", "tunnel"]) - median(self.samples["latency", "direct"]), 3
            ),
            "direct_download_mib_s": round(median(self.samples["download", "direct"]), 1),
            "tunnel_download_mib_s": round(median(self.samples["download", "tunnel"]), 1),
            "direct_upload_mib_s": round(median(self.samples["upload", "direct"]), 1),
            "tunnel_upload_mib_s": round(median(self.samples["upload", "tunnel"]), 1),
        }


async def measure(console: Console, rounds: int) -> Bench:
    """:raises Missing:"""
    machine.demand("nginx", "wrk")
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wrenn-bench-")))
        directory.chmod(0o755)  # nginx's own user reads it
        www = directory / "www"
        www.mkdir()
        (www / "small").write_bytes(SMALL)
        for name, size in (("big", BIG), ("gib", GIB)):
            with (www / name).open("wb") as file:
                file.truncate(size)
        origin = await stack.enter_async_context(machine.origin(directory))
        server = await stack.enter_async_context(machine.program("upstream"))
        nginx = await stack.enter_async_context(machine.proxy(directory, origin.port, server.port))
        edge = await stack.enter_async_context(machine.program("edge"))
        agent = await stack.enter_async_context(machine.program("tunnel"))
        tunnelled = await stack.enter_async_context(machine.program("edge-tunnel", str(agent.port)))
        behind = origin.port, server.port
        ways = [
            Way("direct", None, *behind, behind),
            Way("nginx", nginx, nginx.port, nginx.port, behind),
            Way("edge", edge, edge.port, edge.port, behind),
            Way("tunnel", tunnelled, tunnelled.port, tunnelled.port, behind),
        ]
        bench = Bench(directory)
        for number in range(rounds + 1):
            if number == 1:
                bench.samples.clear()  # the first round warms caches
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                await bench.small(way)
                await bench.big(way)
            console.print(f"round {number} of {rounds}", highlight=False)
        for way in ways[1:3]:
            await bench.idle(way)
            await bench.streams(way)
        return bench


def show(bench: Bench, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("figure", "n", "edge", "nginx", "unit", "ratio", "target", ""):
        table.add_column(heading, justify="left" if heading in {"figure", "unit", "target"} else "right")
    for figure in bench.figures():
        verdict = "" if figure.holds is None else "holds" if figure.holds(figure) else "FAILS"
        table.add_row(
            figure.name, str(len(figure.edge)), f"{median(figure.edge):.2f}", f"{median(figure.nginx):.2f}",
            figure.unit, f"{figure.ratio:.2f}", figure.target, verdict,
        )  # fmt: skip
    console.print(table)
    console.print(bench.others())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.edge", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    words = parser.parse_args()
    console = Console()
    try:
        bench = uvloop.run(measure(console, words.rounds))
    except machine.Missing as missing:
        console.print(str(missing))
        return 1
    show(bench, console)
    figures = [figure.as_dict() for figure in bench.figures()]
    text = json.dumps({"machine": report.machine(), "figures": figures, "others": bench.others()}, indent=2)
    words.results.write_text(text + "\n")
    return 0 if all(figure["holds"] is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
