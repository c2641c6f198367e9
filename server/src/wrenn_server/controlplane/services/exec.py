"""Running a program in a sandbox and collecting what it writes."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import guest as guests
from wrenn_server.controlplane.services.guest import Guest
from wrenn_server.model.errors import GuestError, InvalidRequest, NotFound, TimedOut, TooLarge, WrennError
from wrenn_server.wire import envd

OUTPUT_LIMIT = 10 * 1024 * 1024
"""Bytes of stdout and stderr together; a longer output is for streaming, through the SDK."""
_MARGIN_SEC = 5.0
"""envd ends the process at its deadline; this much later we do not wait for envd any more."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    cmd: str
    args: Sequence[str]
    envs: Mapping[str, str] = field(repr=False)
    cwd: str | None
    user: str | None
    tag: str | None


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
            aclosing(_events(cp, guest, program, timeout_sec)) as events,
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
                        _exit_code(event.end),
                        round((time.monotonic() - started) * 1000),
                    )
        raise GuestError(f"sandbox {guest.id} ended the program's output without its exit code")
    except TooLarge:
        _kill_later(cp, guest, pid)
        raise
    except (TimeoutError, TimedOut) as error:
        _kill_later(cp, guest, pid)
        raise TimedOut(
            f"the program was killed after {timeout_sec:g} s",
            code="exec_timeout",
            hint="ask for a longer timeout_sec, or run it in the background",
        ) from error


async def start(cp: ControlPlane, guest: Guest, program: Program) -> int:
    """Starts a program that goes on by itself. Returns its pid."""
    async with aclosing(_events(cp, guest, program, None)) as events:
        async for event in events:
            if event.start is not None:
                return event.start.pid
    raise GuestError(f"sandbox {guest.id} did not say that the program started")


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


async def _events(
    cp: ControlPlane, guest: Guest, program: Program, timeout_sec: float | None
) -> AsyncGenerator[envd.ProcessEvent, None]:
    config = envd.ProcessConfig(
        cmd=program.cmd, args=list(program.args), envs=dict(program.envs), cwd=program.cwd
    )
    headers = [
        *guest.headers(program.user),
        ("Content-Type", "application/connect+json"),
        ("Connect-Protocol-Version", "1"),
    ]
    if timeout_sec is not None:
        headers.append(("Connect-Timeout-Ms", str(max(1, round(timeout_sec * 1000)))))
    body = envd.envelope(envd.StartRequest(process=config, tag=program.tag, stdin=False))
    # The head comes with the first event; a guest that is short of processor time may be slow to start a program.
    async with guests.connected(cp, guest, head=30.0, idle=None) as connection:
        response = await connection.request("POST", "/process.Process/Start", headers=headers, body=body)
        if response.status != 200:
            raise _refused(await response.read(limit=64 * 1024))
        cutter = envd.Envelopes()
        async for piece in response.aiter():
            for flags, payload in cutter.feed(piece):
                if flags & envd.END_STREAM:
                    end = msgspec.json.decode(payload, type=envd.EndStream)
                    if end.error is not None:
                        raise guests.connect_error(end.error)
                    return
                yield msgspec.json.decode(payload, type=envd.ProcessResponse).event


def _refused(content: bytes) -> WrennError:
    try:
        return guests.connect_error(msgspec.json.decode(content, type=envd.ConnectError))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return InvalidRequest("the sandbox refused to start the program")


def _exit_code(end: envd.EndEvent) -> int:
    """envd gives -1 to a program that a signal ended."""
    return end.exit_code if end.exited or end.exit_code else -1


def _kill_later(cp: ControlPlane, guest: Guest, pid: int | None) -> None:
    if pid is not None:
        cp.work.later(_kill(cp, guest, pid), f"kill {pid} in {guest.id}")


async def _kill(cp: ControlPlane, guest: Guest, pid: int) -> None:
    try:
        await signal(cp, guest, envd.Selector(pid=pid), "SIGKILL")
    except NotFound:
        pass  # envd was faster
    except WrennError as error:
        log.warning("program not killed", action="kill_failed", sandbox_id=guest.id, error=error.message)
