"""Runs of the cases: one program for each SDK and mode, for all tests that ask for it. Two run at a time, as each
mostly waits."""

import json
import os
import subprocess
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compat import environments
from compat.flavours import Flavour, Mode

RUN_SECONDS = 1200
AT_A_TIME = 2

Outcomes = dict[str, str | None]
"""By row: None, or what went wrong."""
Column = tuple[Flavour, Mode]


@dataclass(frozen=True, slots=True)
class Ends:
    """What the programs are told, by mode."""

    variables: dict[Mode, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Runs:
    ends: Ends
    scratch: Path
    started: dict[Column, Future[Outcomes]]

    def outcomes(self, flavour: Flavour, mode: Mode) -> Outcomes:
        """:raises RuntimeError: the program did not come to its end"""
        return self.started[flavour, mode].result()

    def finished(self) -> dict[Column, Outcomes]:
        """Those that came to their end; waits for all."""
        return {column: run.result() for column, run in self.started.items() if run.exception() is None}

    def run(self, flavour: Flavour, mode: Mode) -> Outcomes:
        command = environments.command(flavour, self.scratch)
        if mode in flavour.differing:
            command.append("--differing")
        if only := os.environ.get("COMPAT_ONLY"):
            command += ["--only", only]
        log = self.scratch / f"{flavour.name} {mode}.log"
        with log.open("w") as stderr:
            try:
                completed = subprocess.run(
                    command,
                    cwd=environments.HERE,
                    env=self.ends.variables[mode],
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    timeout=RUN_SECONDS,
                )
                output, ended = completed.stdout, f"exit status {completed.returncode}"
            except subprocess.TimeoutExpired as error:
                output, ended = error.stdout or b"", f"not finished within {RUN_SECONDS} s"
        lines = [json.loads(line) for line in output.splitlines()]
        (self.scratch / f"{flavour.name} {mode}.json").write_bytes(output)
        if ended != "exit status 0":
            raise RuntimeError(f"{flavour.name}, {mode}: {ended}\n{log.read_text()[-2000:]}")
        return {line["row"]: line["error"] for line in lines}


@contextmanager
def running(ends: Ends, scratch: Path, columns: Iterable[Column]) -> Generator[Runs, None, None]:
    """All of them are begun, in this order."""
    runs = Runs(ends, scratch, {})
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        try:
            for flavour, mode in dict.fromkeys(columns):
                runs.started[flavour, mode] = pool.submit(runs.run, flavour, mode)
            yield runs
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
