"""`wrenn up`: check, build what is missing, start the supervisor in the background, wait until it is ready."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from wrenn_server.images.build import ensure_all
from wrenn_server.linux import daemon, forwarding
from wrenn_server.linux.process import CommandFailed
from wrenn_server.up import doctor, supervisor
from wrenn_server.up.progress import Bars
from wrenn_server.up.settings import Settings, as_json

MARK = ".wrenn"
"""Lies in every data directory that we made; only such a directory is ever purged."""


class CannotStart(Exception):
    """Something is missing or failed; the message says what and what to do."""


@dataclass(frozen=True, slots=True)
class Started:
    base_url: str
    vmm: str
    emulated: bool


def is_running(settings: Settings) -> bool:
    return supervisor.running_pid(settings.run_dir) is not None


async def start(settings: Settings, console: Console) -> Started:
    """Brings everything up, showing progress. Does nothing when it runs already.

    :raises CannotStart:
    """
    if is_running(settings):
        return started(settings)
    findings = await doctor.examine(settings)
    if failures := [finding for finding in findings if finding.verdict is doctor.Verdict.FAIL]:
        raise CannotStart("\n".join(f"{f.check}: {f.detail}. {f.fix}" for f in failures))
    make_directories(settings)
    forwarding.switch_on(settings.run_dir / "ip_forward.before")
    with Bars(console) as bars:
        try:
            await ensure_all(settings.data_dir, envd_binary(), bars, cache_dir=settings.cache_dir)
        except (CommandFailed, OSError, RuntimeError) as error:
            raise CannotStart(str(error)) from error
        await launch(settings, bars)
    return started(settings)


def started(settings: Settings) -> Started:
    facts = json.loads((settings.run_dir / "started.json").read_text())
    return Started(base_url=facts["base_url"], vmm=facts["vmm"], emulated=not facts["accelerated"])


def make_directories(settings: Settings) -> None:
    settings.data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    (settings.data_dir / MARK).touch()
    for name, mode in {
        "run": 0o700,
        "logs": 0o750,
        "kernels": 0o755,
        "images": 0o755,
        "sandboxes": 0o711,
    }.items():
        (settings.data_dir / name).mkdir(mode=mode, exist_ok=True)


def envd_binary() -> Path:
    """The guest agent to bake into images: WRENN_ENVD, or builds/envd of the checkout we run from.

    :raises CannotStart:"""
    given = os.environ.get("WRENN_ENVD")
    checkout = Path(__file__).resolve().parents[4]
    path = Path(given) if given else checkout / "builds/envd"
    if not path.is_file():
        raise CannotStart(
            f"the guest agent is not at {path}: run `make build-envd`, or set WRENN_ENVD to a built envd"
        )
    return path


async def launch(settings: Settings, bars: Bars) -> None:
    """Starts the supervisor as a daemon and follows its report until it is ready.

    :raises CannotStart:"""
    reader = await daemon.launch(
        lambda descriptor: [
            sys.executable,
            "-m",
            "wrenn_server.up.supervisor",
            json.dumps(as_json(settings)),
            str(descriptor),
        ],
        log=settings.logs_dir / "supervisor.log",
    )
    current: str | None = None
    async for line in reader:
        message = json.loads(line)
        if current is not None:
            bars.done(current)
            current = None
        if "step" in message:
            current = str(message["step"])
            bars.start(current)
        elif "error" in message:
            raise CannotStart(str(message["error"]))
        elif "ready" in message:
            return
    raise CannotStart(
        f"the supervisor ended without a word; its log is {settings.logs_dir / 'supervisor.log'}"
    )


async def wait_until_stopped(settings: Settings) -> None:
    """Returns when the supervisor has ended."""
    pid = supervisor.running_pid(settings.run_dir)
    if pid is not None:
        await daemon.wait(pid)
