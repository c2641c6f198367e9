"""Programs of a sandbox: what they say, as it comes, and what is typed into their terminals."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import guest as guests
from wrenn_server.controlplane.services.guest import Guest
from wrenn_server.model.errors import GuestError, InvalidRequest, WrennError
from wrenn_server.wire import envd

_ERROR_LIMIT = 64 * 1024
_PIECE = 64 * 1024
"""Bytes that are typed at once."""
_TYPING_SEC = 30.0
"""A connection for input is kept for so long without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    cmd: str
    args: Sequence[str]
    envs: Mapping[str, str] = field(repr=False)
    cwd: str | None
    user: str | None
    tag: str | None = None
    terminal: envd.Size | None = None
    """None: it has pipes."""


async def started(
    cp: ControlPlane, guest: Guest, program: Program, *, timeout_sec: float | None = None
) -> AsyncGenerator[envd.ProcessEvent]:
    """Starts it, and gives what happens from its start to its end. Whoever stops listening leaves it running.

    :param timeout_sec: it is killed then
    :raises InvalidRequest: there is no such program, directory or user
    """
    config = envd.ProcessConfig(
        cmd=program.cmd, args=list(program.args), envs=dict(program.envs), cwd=program.cwd
    )
    pty = None if program.terminal is None else envd.Pty(program.terminal)
    request = envd.StartRequest(
        process=config, pty=pty, tag=program.tag, stdin=None if pty is not None else False
    )
    headers = guest.headers(program.user)
    if timeout_sec is not None:
        headers.append(("Connect-Timeout-Ms", str(max(1, round(timeout_sec * 1000)))))
    async with aclosing(_events(cp, guest, "Start", request, headers)) as events:
        async for event in events:
            yield event


async def attached(
    cp: ControlPlane, guest: Guest, selector: envd.Selector
) -> AsyncGenerator[envd.ProcessEvent]:
    """What happens from now on to one that runs, with its start first; of a terminal that nobody listened to, the last
    of what was missed, too.

    :raises NotFound:
    """
    async with aclosing(
        _events(cp, guest, "Connect", envd.ConnectRequest(selector), guest.headers())
    ) as events:
        async for event in events:
            yield event


async def pid_of(events: AsyncIterator[envd.ProcessEvent]) -> int:
    """Reads as far as the start."""
    async for event in events:
        if event.start is not None:
            return event.start.pid
    raise GuestError("the sandbox did not say that the program started")


def exit_code(end: envd.EndEvent) -> int:
    """envd gives -1 to a program that a signal ended."""
    return end.exit_code if end.exited or end.exit_code else -1


async def resize(cp: ControlPlane, guest: Guest, pid: int, size: envd.Size) -> None:
    """:raises NotFound: :raises GuestError: it has no terminal"""
    request = envd.UpdateRequest(envd.Selector(pid=pid), envd.Pty(size))
    await guests.unary(cp, guest, "process.Process/Update", request, msgspec.Raw)


async def type_all(cp: ControlPlane, guest: Guest, pid: int, typed: "asyncio.Queue[bytes]") -> None:
    """Types what comes, in its order, and for ever; the program may take its time.

    :raises NotFound: it has ended; :raises GuestError: it has no terminal
    """
    while True:
        piece = await typed.get()
        async with guests.connected(cp, guest, head=None) as connection:
            while piece:
                while len(piece) < _PIECE and not typed.empty():
                    piece += typed.get_nowait()
                request = envd.SendInputRequest(envd.Selector(pid=pid), envd.Input(piece))
                await guests.ask(connection, guest, "process.Process/SendInput", request, msgspec.Raw)
                piece = await _more(typed) if connection.reusable else b""


async def _more(typed: "asyncio.Queue[bytes]") -> bytes:
    """Nothing, when nothing comes for a while."""
    try:
        async with asyncio.timeout(_TYPING_SEC):
            return await typed.get()
    except TimeoutError:
        return b""


async def _events(
    cp: ControlPlane, guest: Guest, method: str, request: object, headers: list[tuple[str, str]]
) -> AsyncGenerator[envd.ProcessEvent]:
    headers = [*headers, ("Content-Type", "application/connect+json"), ("Connect-Protocol-Version", "1")]
    # The head comes with the first event; a guest that is short of processor time may be slow to start a program.
    async with guests.connected(cp, guest, head=30.0, idle=None) as connection:
        response = await connection.request(
            "POST", f"/process.Process/{method}", headers=headers, body=envd.envelope(request)
        )
        if response.status != 200:
            raise _refused(await response.read(limit=_ERROR_LIMIT))
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
