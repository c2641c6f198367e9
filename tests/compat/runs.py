"""Runs of the cases: one program for each SDK and mode, for all tests that ask for it."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from compat import environments
from compat.flavours import Flavour, Mode

RUN_SECONDS = 1200


@dataclass(frozen=True, slots=True)
class Ends:
    """What the programs are told, by mode."""

    variables: dict[Mode, dict[str, str]]


@dataclass(slots=True)
class Runs:
    """Outcomes by SDK and mode; a row's is None, or what went wrong."""

    ends: Ends
    scratch: Path
    done: dict[tuple[Flavour, Mode], dict[str, str | None]] = field(
        default_factory=dict[tuple[Flavour, Mode], dict[str, str | None]]
    )

    def outcomes(self, flavour: Flavour, mode: Mode) -> dict[str, str | None]:
        if (flavour, mode) not in self.done:
            self.done[flavour, mode] = self._run(flavour, mode)
        return self.done[flavour, mode]

    def _run(self, flavour: Flavour, mode: Mode) -> dict[str, str | None]:
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
