"""`make bench-sdk`: E2B's unmodified SDK, and a bare socket through the edge, beside the same requests straight to envd.

All talk to one sandbox, in turns. Straight means: a socket made in the sandbox's network namespace, kept open, with
nothing but the request's bytes on it. The difference of the bare sockets is what edge, tunnel and agent cost; the SDK's
own share of a transfer (multipart forms, its HTTP client) comes on top in its rows.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import report
from bench.envd import Client, straight, through_edge
from bench.report import Figure
from compat import environments
from compat.flavours import FLAVOURS, PYTHON
from wrenn_server.hostagent.network import plan
from wrenn_server.up import demo, down, environment, start
from wrenn_server.up.settings import Settings

ROUNDS, EXECS = 20, 5
"""Rounds, and commands in each; a file goes up and down in every FILE_EVERY-th round."""
FILE_EVERY = 2
FILE_SIZE = 100 << 20
RESULTS = report.RESULTS.with_name("sdk.json")
TARGETS = {
    "sdk_exec": 1.3,
    "edge_exec": None,
    "edge_upload": 1 / 0.9,
    "edge_download": 1 / 0.9,
    "sdk_upload": None,
    "sdk_download": None,
}
"""Highest ratios of the times: a command may take 1.3 times as long, a file gets 0.9 of the throughput."""
SETTINGS = Settings(
    data_dir=Path("/var/lib/wrenn-bench-sdk"),
    listen=f"127.0.0.1:{demo.free_port()}",
    agent_listen=f"127.0.0.1:{demo.free_port()}",
    network="10.219.0.0/16",
    uid_base=57000,
)


class Sdk:
    """The program with the SDK."""

    def __init__(self, data: Path, variables: dict[str, str]) -> None:
        flavour = next(f for f in FLAVOURS if f.name == f"Python {PYTHON} sync")
        interpreter = environments.command(flavour, data.parent)[0]
        program = Path(__file__).with_name("sdk_client.py")
        self._process = subprocess.Popen(
            [interpreter, program, data],
            env={"PATH": os.environ["PATH"], **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.sandbox_id = self._answer()

    def do(self, what: str) -> float:
        """Milliseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the SDK's program ended with {self._process.wait()}")
        return line.strip()


def clients(sandbox_id: str) -> tuple[Client, Client]:
    """Straight and through the edge, by what the agent's journal tells of the sandbox."""
    entry = json.loads((SETTINGS.data_dir / "sandboxes" / sandbox_id / "state.json").read_text())
    slot = plan.slot(SETTINGS.tag, SETTINGS.uid_base, entry["slot"])
    token = entry["access_token"]
    return straight(slot.name, token), through_edge(SETTINGS.listen, sandbox_id, token)


def measure(console: Console, rounds: int, directory: Path) -> list[Figure]:
    data = directory / "data"
    data.write_bytes(os.urandom(FILE_SIZE))
    variables = environment.read(SETTINGS.env_file)
    sdk = Sdk(data, {name: variables[name] for name in ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_API_KEY")})
    floor, edge = clients(sdk.sandbox_id)
    samples: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in TARGETS}

    def all_of(what: str, bare: Callable[[Client], None], *, first: bool) -> None:
        """One after the other, by turns in which order."""

        def timed(client: Client) -> float:
            began = time.perf_counter()
            bare(client)
            return (time.perf_counter() - began) * 1000

        ways = [lambda: timed(floor), lambda: timed(edge), lambda: sdk.do(what)]
        took = [way() for way in ways] if first else [way() for way in reversed(ways)][::-1]
        for name, milliseconds in ((f"edge_{what}", took[1]), (f"sdk_{what}", took[2])):
            samples[name][0].append(milliseconds)
            samples[name][1].append(took[0])

    for number in range(rounds + 1):
        if number == 1:  # the first round warms caches
            samples = {name: ([], []) for name in TARGETS}
        first = number % 2 == 0
        for _ in range(EXECS):
            all_of("exec", lambda client: client.run("true"), first=first)
        if number % FILE_EVERY == 0:
            first = number % (2 * FILE_EVERY) == 0
            all_of("upload", lambda client: client.upload("/home/user/bare", data), first=first)
            all_of("download", lambda client: client.download("/home/user/bare", FILE_SIZE), first=first)
        console.print(f"round {number} of {rounds}", highlight=False)
    floor.close()
    edge.close()
    sdk.close()
    return [
        Figure(name=name, samples=ours, unit="ms", floor=floors, target=TARGETS[name])
        for name, (ours, floors) in samples.items()
    ]


async def run(console: Console, rounds: int) -> list[Figure]:
    await start.start(SETTINGS, console)
    try:
        with tempfile.TemporaryDirectory() as directory:
            return await asyncio.to_thread(measure, console, rounds, Path(directory))
    finally:
        await down.stop(SETTINGS, kill=True)
        await down.purge(SETTINGS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-sdk", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    console = Console()
    figures = asyncio.run(run(console, parser.parse_args().rounds))
    report.show(figures, console)
    report.write(figures, report.machine(), RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
