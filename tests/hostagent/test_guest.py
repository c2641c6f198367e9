"""Talking to an envd that may be slow, broken or hostile."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import datetime
from typing import Any

import pytest

from wrenn_server.hostagent.guest import client
from wrenn_server.hostagent.guest.client import Guest, GuestFailed
from wrenn_server.wire.envd import Init

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def guest_that(serve: Serve) -> AsyncGenerator[client.Connect]:
    """Connections to a guest that answers like this."""

    served: list[asyncio.Task[None] | None] = []

    async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(ended, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield lambda timeout: connect(port)
        await asyncio.gather(*(task for task in served if task is not None))


async def connect(port: int) -> socket.socket:
    connected = socket.socket()
    connected.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", port))
    except BaseException:
        connected.close()
        raise
    return connected


def guest(seconds: float = 5.0) -> Guest:
    return Guest(start_timeout=seconds, boot_timeout=seconds)


def init() -> Init:
    return Init(access_token="t")


async def test_it_waits_for_an_envd_that_does_not_listen_yet(unused_tcp_port: int) -> None:
    tries = 0
    late: list[asyncio.Server] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    async def connecting(timeout: float) -> socket.socket:
        nonlocal tries
        tries += 1
        if tries == 3:
            late.append(await asyncio.start_server(serve, "127.0.0.1", unused_tcp_port))
        return await connect(unused_tcp_port)

    assert await guest().answering(connecting) == client.PROTOCOL
    assert tries == 3
    late[0].close()


async def test_a_connection_that_breaks_is_tried_again() -> None:
    tries = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await reader.readuntil(b"\r\n\r\n")
        if tries > 2:
            writer.write(b"HTTP/1.1 204 No Content\r\nX-Envd-Version: 0.7.0\r\n\r\n")
            await writer.drain()

    async with guest_that(serve) as connecting:
        assert (await guest().introduce(connecting, init, None)).version == "0.7.0"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 7\r\n\r\na\x1b[31mb", "answered /init with 500: a .31mb"),
        (b"HTTP/1.1 204\n\n", "LF of its own"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", "malformed"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000,
            "not an answer that envd gives",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000, "longer than"),
    ],
)
async def test_what_is_no_answer_of_envd_ends_the_start(answer: bytes, words: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await reader.read()

    async with guest_that(serve) as connecting:
        with pytest.raises(GuestFailed, match=words):
            await guest(0.5).introduce(connecting, init, None)


async def test_silence_ends_with_the_time() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with guest_that(serve) as connecting:
        with pytest.raises(GuestFailed, match=r"within 0\.1 s"):
            await guest(0.1).introduce(connecting, init, None)


def test_times_have_nanoseconds_and_a_zone() -> None:
    text = client.timestamp(1_700_000_000_000_000_042)
    assert text == "2023-11-14T22:13:20.000000042Z"
    assert datetime.fromisoformat(text).timestamp() == 1_700_000_000
