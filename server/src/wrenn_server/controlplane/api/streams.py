"""`/exec/stream` and `/processes/{process}/stream`, below the path of a sandbox: output of programs through a WebSocket."""

import codecs
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing

from litestar import websocket
from litestar.params import FromPath
from msgspec.json import Decoder

from wrenn_server.controlplane.api import auth, sockets
from wrenn_server.controlplane.api.exec import selector
from wrenn_server.controlplane.api.sockets import Client, Socket
from wrenn_server.controlplane.schema_sockets import Began, Error, Exit, Pong, Start, Stderr, Stdout, Stop
from wrenn_server.controlplane.services import exec, guest, programs
from wrenn_server.controlplane.services.guest import Guest
from wrenn_server.controlplane.services.programs import Program
from wrenn_server.model.errors import GuestError, NotFound
from wrenn_server.wire.envd import ProcessEvent, Selector

_START = Decoder(Start)
_LATER: Decoder[Stop | Pong] = Decoder(Stop | Pong)


@websocket("/{sandbox_id:str}/exec/stream", opt=auth.needs("write", operation="streamExec"))
async def run(socket: Socket, sandbox_id: FromPath[str]) -> None:
    """Runs a program for as long as the client is there."""

    async def talk(client: Client) -> None:
        wanted = await client.first(_START)
        where = await guest.awake(client.cp, client.caller.team_id, sandbox_id)
        program = Program(
            cmd=wanted.cmd, args=wanted.args, envs=wanted.envs, cwd=wanted.cwd, user=wanted.user
        )
        async with aclosing(programs.started(client.cp, where, program)) as events:
            pid = await programs.pid_of(events)
            try:
                await client.send(Began(pid=pid))
                await sockets.first_of(_tell(client, events), _heed(client, where, pid))
            except BaseException:
                exec.kill_later(client.cp, where, pid)
                raise

    await sockets.serve(socket, talk, lambda message: Error(data=message))


@websocket("/{sandbox_id:str}/processes/{process:str}/stream", opt=auth.needs("read"))
async def follow(socket: Socket, sandbox_id: FromPath[str], process: FromPath[str]) -> None:
    """The output of a program that runs, named by pid or tag, from now on."""

    async def talk(client: Client) -> None:
        where = await guest.awake(client.cp, client.caller.team_id, sandbox_id)
        async with aclosing(programs.attached(client.cp, where, selector(process))) as events:
            await client.send(Began(pid=await programs.pid_of(events)))
            await sockets.first_of(_tell(client, events), _until_gone(client))

    await sockets.serve(socket, talk, lambda message: Error(data=message))


async def _tell(client: Client, events: AsyncIterator[ProcessEvent]) -> None:
    """Until its end."""
    out, err = Text(), Text()
    async for event in events:
        if event.data is not None:
            if text := out.take(event.data.stdout or event.data.pty or b""):
                await client.send(Stdout(data=text))
            if text := err.take(event.data.stderr or b""):
                await client.send(Stderr(data=text))
        if event.end is not None:
            if text := out.rest():
                await client.send(Stdout(data=text))
            if text := err.rest():
                await client.send(Stderr(data=text))
            await client.send(Exit(exit_code=programs.exit_code(event.end)))
            return
    raise GuestError("the sandbox ended the program's output without its exit code")


async def _heed(client: Client, where: Guest, pid: int) -> None:
    while True:
        if isinstance(sockets.read(await client.receive(), _LATER), Stop):
            with contextlib.suppress(NotFound):  # it has just ended
                await exec.signal(client.cp, where, Selector(pid=pid), "SIGKILL")


async def _until_gone(client: Client) -> None:
    while True:
        await client.receive()


class Text:
    """Bytes as they come, made text: a character whose bytes come in two pieces is not torn, and what is none becomes a
    replacement character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


ROUTES = [run, follow]
