"""Terminals through WebSockets."""

import hashlib

import pytest
from websockets.asyncio.client import ClientConnection

from support.sockets import Place, message, place, rest, send
from wrenn_server.controlplane.api import terminals

__all__ = ["place"]


async def shown(socket: ClientConnection, text: str) -> str:
    """What the terminal shows, up to and with `text`."""
    seen = ""
    while text not in seen:
        received = await message(socket)
        assert isinstance(received, bytes), received
        seen += received.decode(errors="replace")
    return seen


@pytest.mark.parametrize("noun", ["sandboxes", "capsules"])
async def test_a_terminal(place: Place, noun: str) -> None:
    async with place.open("pty", noun=noun) as socket:
        await send(socket, type="start", cmd="/bin/sh", cols=100, rows=40, envs={"PS1": "$"})
        await socket.send(b"stty size; echo $TERM; tty -s && echo t$((1+1))y\n")  # before `started` has come
        started = await message(socket)
        assert started["type"] == "started"
        assert started["tag"].startswith("pty-")
        seen = await shown(socket, "t2y\r\n")
        assert "40 100\r\n" in seen
        assert f"{terminals.TERM}\r\n" in seen
        await send(socket, type="resize", cols=120, rows=50)
        await socket.send(b"while [ \"$(stty size)\" != '50 120' ]; do sleep 0.05; done; echo res''ized\n")
        await shown(socket, "resized\r\n")
        await socket.send(b"exit 7\n")
        assert (await rest(socket))[-1] == {"type": "exit", "exit_code": 7}
        assert socket.close_code == 1000


async def test_a_terminal_goes_on_without_its_client(place: Place) -> None:
    async with place.open("pty") as socket:
        await send(socket, type="start", cmd="/bin/sh", envs={"PS1": "$"})
        started = await message(socket)
        await socket.send(b"A=kept\n")
        await shown(socket, "A=kept\r\n")
    assert started["pid"] in await place.pids()
    async with place.open("pty") as socket:
        await send(socket, type="connect", tag=started["tag"])
        assert await message(socket) == started
        await socket.send(b"echo x$A\n")
        await shown(socket, "xkept\r\n")
        await send(socket, type="kill")
        assert (await rest(socket))[-1] == {"type": "exit", "exit_code": -1}


async def test_much_is_typed_and_shown(place: Place) -> None:
    """More than waits anywhere on the way, in one direction and the other."""
    async with place.open("pty") as socket:
        await send(
            socket,
            type="start",
            cmd="/bin/sh",
            args=["-c", "stty raw -echo; echo go; head -c 3000000 | sha256sum"],
        )
        assert (await message(socket))["type"] == "started"
        await shown(socket, "go")
        typed = b"0123456789" * 10_000
        for _ in range(30):
            await socket.send(typed)
        told = b"".join(one for one in await rest(socket) if isinstance(one, bytes))
    assert hashlib.sha256(typed * 30).hexdigest().encode() in told


async def test_a_terminal_is_killed_while_nobody_reads_what_is_typed(place: Place) -> None:
    async with place.open("pty") as socket:
        await send(
            socket, type="start", cmd="/bin/sh", args=["-c", "stty raw -echo; echo go; exec sleep 300"]
        )
        assert (await message(socket))["type"] == "started"
        await shown(socket, "go")
        await socket.send(b"x" * 200_000)
        await send(socket, type="kill")
        assert (await rest(socket))[-1] == {"type": "exit", "exit_code": -1}


async def test_what_a_terminal_does_not_understand_is_no_end(place: Place) -> None:
    async with place.open("pty") as socket:
        await send(socket, type="start", cmd="/bin/cat")
        assert (await message(socket))["type"] == "started"
        for wrong in (
            '{"type":"what"}',
            "x",
            '{"type":"resize","cols":0,"rows":1}',
            '{"type":"resize","cols":1,"rows":70000}',
        ):
            await socket.send(wrong)
            told = await message(socket)
            assert (told["type"], told["fatal"]) == ("error", False)
        await send(socket, type="pong")
        await socket.send(b"still here\n")
        await shown(socket, "still here")


@pytest.mark.parametrize(
    "first",
    ['{"type":"connect","tag":"none"}', '{"type":"connect"}', '{"type":"start","cols":0}', "x",
     '{"type":"start","cmd":"/no/such"}'],
)  # fmt: skip
async def test_terminals_that_make_no_sense(place: Place, first: str) -> None:
    async with place.open("pty") as socket:
        await socket.send(first)
        [told] = await rest(socket)
    assert (told["type"], told["fatal"]) == ("error", True)


async def test_a_terminal_asks_whether_its_client_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "PING_SEC", 0.05)
    async with place.open("pty") as socket:
        await send(socket, type="start", cmd="/bin/cat")
        assert (await message(socket))["type"] == "started"
        assert await message(socket) == {"type": "ping"}
        await send(socket, type="pong")
        assert await message(socket) == {"type": "ping"}
