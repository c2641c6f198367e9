"""`/pty`, below the path of a sandbox: a terminal through a WebSocket. Without a client it goes on, and by its tag the next
one finds it."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import NoReturn

from litestar import websocket
from litestar.params import FromPath
from msgspec.json import Decoder

from wrenn_server.controlplane.api import auth, sockets
from wrenn_server.controlplane.api.sockets import Client, Socket
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.schema_sockets import (
    Connect,
    Exit,
    Failure,
    Kill,
    Open,
    Ping,
    Pong,
    Resize,
    Started,
)
from wrenn_server.controlplane.services import exec, guest, programs
from wrenn_server.controlplane.services.guest import Guest
from wrenn_server.controlplane.services.programs import Program
from wrenn_server.model.errors import GuestError, NotFound, WrennError
from wrenn_server.wire.envd import ProcessEvent, Selector, Size

_FIRST: Decoder[Open | Connect] = Decoder(Open | Connect)
_LATER: Decoder[Resize | Kill | Pong] = Decoder(Resize | Kill | Pong)
PING_SEC = 30.0
TERM = "xterm-256color"
_PIECE = 64 * 1024
_PIECES = 16
"""That wait to be typed. A client that types more has to wait until the program reads."""


@websocket("/{sandbox_id:str}/pty", opt=auth.needs("write", operation="openTerminal"))
async def terminal(socket: Socket, sandbox_id: FromPath[str]) -> None:
    async def talk(client: Client) -> None:
        wanted = await client.first(_FIRST)
        where = await guest.awake(client.cp, client.caller.team_id, sandbox_id)
        tag = wanted.tag if isinstance(wanted, Connect) else f"pty-{secrets.token_hex(4)}"
        async with aclosing(_events(client.cp, where, wanted, tag)) as events:
            pid = await programs.pid_of(events)
            await client.send(Started(tag=tag, pid=pid))
            typed: asyncio.Queue[bytes] = asyncio.Queue(_PIECES)
            await sockets.first_of(
                _show(client, events),
                _heed(client, where, pid, typed),
                _type(client, where, pid, typed),
                _ping(client),
            )

    await sockets.serve(socket, talk, lambda message: Failure(data=message, fatal=True))


def _events(cp: ControlPlane, where: Guest, wanted: Open | Connect, tag: str) -> AsyncGenerator[ProcessEvent]:
    if isinstance(wanted, Connect):
        return programs.attached(cp, where, Selector(tag=tag))
    program = Program(
        cmd=wanted.cmd,
        args=wanted.args,
        envs={"TERM": TERM, **wanted.envs},
        cwd=wanted.cwd,
        user=wanted.user,
        tag=tag,
        terminal=wanted.size,
    )
    return programs.started(cp, where, program)


async def _show(client: Client, events: AsyncIterator[ProcessEvent]) -> None:
    """Until its end."""
    async for event in events:
        if event.data is not None:
            await client.send(event.data.pty or event.data.stdout or event.data.stderr or b"")
        if event.end is not None:
            await client.send(Exit(exit_code=programs.exit_code(event.end)))
            return
    raise GuestError("the sandbox ended the terminal's output without an exit code")


async def _heed(client: Client, where: Guest, pid: int, typed: "asyncio.Queue[bytes]") -> NoReturn:
    while True:
        message = await client.receive()
        if isinstance(message, bytes):
            for start in range(0, len(message), _PIECE):
                await typed.put(message[start : start + _PIECE])
            continue
        try:
            wanted = sockets.read(message, _LATER)
            match wanted:
                case Resize(cols=cols, rows=rows):
                    await programs.resize(client.cp, where, pid, Size(cols, rows))
                case Kill():
                    await exec.signal(client.cp, where, Selector(pid=pid), "SIGKILL")
                case _:
                    pass
        except NotFound:
            pass  # it has just ended
        except WrennError as error:
            await client.send(Failure(data=error.message, fatal=False))


async def _type(client: Client, where: Guest, pid: int, typed: "asyncio.Queue[bytes]") -> NoReturn:
    while True:
        try:
            await programs.type_all(client.cp, where, pid, typed)
        except NotFound:
            pass  # it has just ended
        except WrennError as error:
            await client.send(Failure(data=error.message, fatal=False))


async def _ping(client: Client) -> NoReturn:
    while True:
        await asyncio.sleep(PING_SEC)
        await client.send(Ping())


ROUTES = [terminal]
