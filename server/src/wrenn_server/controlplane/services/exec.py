"""Running a program in a sandbox and collecting what it writes."""

import asyncio
import base64
import time
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import guest as guests
from wrenn_server.controlplane.services import programs
from wrenn_server.controlplane.services.guest import Guest
from wrenn_server.controlplane.services.programs import Program
from wrenn_server.model.errors import GuestError, NotFound, TimedOut, TooLarge, WrennError
from wrenn_server.wire import envd

OUTPUT_LIMIT = 10 * 1024 * 1024
"""Bytes of stdout and stderr together; a longer output is for streaming, through the SDK."""
_MARGIN_SEC = 5.0
"""envd ends the process at its deadline; this much later we do not wait for envd any more."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Result:
    stdout: bytes
    stderr: bytes
    exit_code: int
    duration_ms: int


async def run(cp: ControlPlane, guest: Guest, program: Program, timeout_sec: float) -> Result:
    """Waits for the program's end. At the deadline its process group is killed.

    :raises TimedOut: `exec_timeout`; :raises TooLarge: `output_too_large`, the program is killed too
    :raises InvalidRequest: there is no such program, directory or user
    """
    started = time.monotonic()
    pid: int | None = None
    size = 0
    output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    try:
        async with (
            asyncio.timeout(timeout_sec + _MARGIN_SEC),
            aclosing(programs.started(cp, guest, program, timeout_sec=timeout_sec)) as events,
        ):
            async for event in events:
                if event.start is not None:
                    pid = event.start.pid
                if event.data is not None:
                    for name, piece in (("stdout", event.data.stdout), ("stderr", event.data.stderr)):
                        if piece:
                            output[name].append(piece)
                            size += len(piece)
                    if size > OUTPUT_LIMIT:
                        raise TooLarge(
                            f"the program wrote more than {OUTPUT_LIMIT} bytes",
                            code="output_too_large",
                            hint="write to a file and read that, or stream the output with the SDK",
                        )
                if event.end is not None:
                    return Result(
                        b"".join(output["stdout"]),
                        b"".join(output["stderr"]),
                        programs.exit_code(event.end),
                        round((time.monotonic() - started) * 1000),
                    )
        raise GuestError(f"sandbox {guest.id} ended the program's output without its exit code")
    except TooLarge:
        kill_later(cp, guest, pid)
        raise
    except (TimeoutError, TimedOut) as error:
        kill_later(cp, guest, pid)
        raise TimedOut(
            f"the program was killed after {timeout_sec:g} s",
            code="exec_timeout",
            hint="ask for a longer timeout_sec, or run it in the background",
        ) from error


async def start(cp: ControlPlane, guest: Guest, program: Program) -> int:
    """Starts a program that goes on by itself. Returns its pid."""
    async with aclosing(programs.started(cp, guest, program)) as events:
        return await programs.pid_of(events)


class ProcessInfo(msgspec.Struct, kw_only=True):
    pid: int = 0
    tag: str | None = None
    config: envd.ProcessConfig = msgspec.field(default_factory=envd.ProcessConfig)


class _Processes(msgspec.Struct):
    processes: list[ProcessInfo] = []


class _Signal(msgspec.Struct):
    process: envd.Selector
    signal: str


async def processes(cp: ControlPlane, guest: Guest) -> list[ProcessInfo]:
    """Programs that envd started and that run."""
    return (await guests.unary(cp, guest, "process.Process/List", {}, _Processes)).processes


async def signal(cp: ControlPlane, guest: Guest, selector: envd.Selector, name: str) -> None:
    """:param name: `SIGKILL` or `SIGTERM`, to the whole process group; :raises NotFound:"""
    request = _Signal(selector, f"SIGNAL_{name}")
    await guests.unary(cp, guest, "process.Process/SendSignal", request, msgspec.Raw)


def as_text(result: Result) -> tuple[str, str, str]:
    """stdout, stderr and their encoding: `utf-8`, or `base64` for both when one of them is not UTF-8."""
    try:
        return result.stdout.decode(), result.stderr.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(result.stdout).decode(), base64.b64encode(result.stderr).decode(), "base64"


def kill_later(cp: ControlPlane, guest: Guest, pid: int | None) -> None:
    """Its process group is killed, whatever becomes of the caller."""
    if pid is not None:
        cp.work.later(_kill(cp, guest, pid), f"kill {pid} in {guest.id}")


async def _kill(cp: ControlPlane, guest: Guest, pid: int) -> None:
    try:
        await signal(cp, guest, envd.Selector(pid=pid), "SIGKILL")
    except NotFound:
        pass  # envd was faster
    except WrennError as error:
        log.warning("program not killed", action="kill_failed", sandbox_id=guest.id, error=error.message)
