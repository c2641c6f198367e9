"""The small client against servers that behave, stall, lie and break off."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from unit.edge.loopback import Server, World, exactly, head_of, to_end

from wrenn_server.model.errors import GuestError, Internal
from wrenn_server.wire.head import parse_request
from wrenn_server.wire.http1 import Broken, Connection, Response, Timeouts, TooMuch, connect_tunnel
from wrenn_server.wire.stream import Stream

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def begun(
    server: Server, answer: bytes, timeouts: Timeouts | None = None
) -> tuple[Connection, Response, Stream]:
    connection = Connection(await server.dial(), timeouts=timeouts)
    requesting = asyncio.create_task(connection.request("GET", "/"))
    stream = await server.accept()
    await head_of(stream)
    stream.write(answer)
    return connection, await requesting, stream


async def test_requests_on_one_connection(world: World) -> None:
    server = await world.server()
    async with Connection(await server.dial(), host="sb1") as connection:
        stream = await server.accept()
        for number in range(3):
            requesting = asyncio.create_task(
                connection.request("POST", f"/{number}", headers=[("X-A", "b")], body=b"abc" * number)
            )
            head = parse_request(await head_of(stream))
            assert (head.target, head.get("host"), head.get("x-a")) == (f"/{number}", "sb1", "b")
            assert head.get("accept-encoding") == "identity"
            assert head.get("content-length") == str(3 * number)
            assert await exactly(stream, 3 * number) == b"abc" * number
            stream.write(
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 2\r\nX-B: c\r\n\r\n"
            )
            response = await requesting
            assert (response.status, response.header("x-b")) == (201, "c")
            assert not connection.reusable
            stream.write(b"ok")
            assert await response.read(limit=2) == b"ok"
            assert connection.reusable
    assert await to_end(stream) == b""


async def test_pieces_arrive_as_they_come(world: World) -> None:
    connection, response, stream = await begun(await world.server(), CHUNKED)
    async with connection:
        pieces = response.aiter()
        for word in (b"one", b"two"):
            stream.write(b"3\r\n%b\r\n" % word)
            assert await anext(pieces) == word
        stream.write(b"0\r\n\r\n")
        assert [piece async for piece in pieces] == []
        assert connection.reusable


async def test_a_response_not_read_to_its_end_is_reset(world: World) -> None:
    connection, _, stream = await begun(await world.server(), CHUNKED + b"1\r\na\r\n")
    async with connection:
        assert not connection.reusable
    with pytest.raises(ConnectionError):
        await to_end(stream)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", CHUNKED + b"b\r\n", b"HTTP/1.0 200 OK\r\n\r\n"],
)
async def test_bodies_are_bounded(world: World, answer: bytes) -> None:
    connection, response, stream = await begun(await world.server(), answer)
    async with connection:
        stream.write(b"x" * 11)
        with pytest.raises(TooMuch):
            await response.read(limit=10)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
    ],
    ids=["nothing", "half a head", "no HTTP", "long head", "ambiguous", "only interim"],
)
async def test_what_is_no_response(world: World, answer: bytes) -> None:
    server = await world.server()
    async with Connection(await server.dial()) as connection:
        stream = await server.accept()
        stream.write(answer)
        stream.write_eof()
        with pytest.raises(Broken):
            await connection.request("GET", "/")
        assert not connection.reusable


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", CHUNKED + b"3\r\nabc\r\n", CHUNKED + b"3\r\nabcd"],
)
async def test_half_a_body(world: World, answer: bytes) -> None:
    connection, response, stream = await begun(await world.server(), answer)
    stream.close()
    async with connection:
        with pytest.raises(Broken):
            await response.read(limit=1000)


async def test_times_are_bounded(world: World) -> None:
    server = await world.server()
    async with Connection(await server.dial(), timeouts=Timeouts(head=0.05)) as connection:
        with pytest.raises(TimeoutError):
            await connection.request("GET", "/")
    with pytest.raises(ConnectionError):
        await to_end(await server.accept())
    connection, response, _ = await begun(server, CHUNKED, Timeouts(idle=0.05))
    async with connection:
        with pytest.raises(TimeoutError):
            await response.read(limit=10)


async def test_a_streamed_body(world: World) -> None:
    server = await world.server()
    go = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await go.wait()
        yield b""  # must not end the chunked body
        yield b"two"

    async with Connection(await server.dial()) as connection:
        stream = await server.accept()
        requesting = asyncio.create_task(connection.request("POST", "/", body=body()))
        assert parse_request(await head_of(stream)).get("transfer-encoding") == "chunked"
        assert await exactly(stream, 8) == b"3\r\none\r\n"
        stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        response = await requesting
        assert await response.read(limit=0) == b""
        assert not connection.reusable  # the request is not at its end
        go.set()
        assert await exactly(stream, 13) == b"3\r\ntwo\r\n0\r\n\r\n"
        assert connection.reusable


async def test_a_streamed_body_that_fails_does_not_look_whole(world: World) -> None:
    server = await world.server()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    async with Connection(await server.dial()) as connection:
        with pytest.raises(ZeroDivisionError):
            await connection.request("POST", "/", body=body())
    with pytest.raises(ConnectionError):
        await to_end(await server.accept())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            b'HTTP/1.1 502 X\r\nContent-Length: 50\r\n\r\n{"error":{"code":"port_not_open","message":"closed"}}',
            GuestError,
        ),
        (b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops", Internal),
        (b"HTTP/1.1 502 X\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90_000, Broken),
        (b"HTTP/1.1 204 X\r\n\r\n", Internal),
        (b"nonsense\r\n\r\n", Broken),
        (b"", Broken),
    ],
)
async def test_tunnels_that_do_not_open(world: World, answer: bytes, error: type[Exception]) -> None:
    server = await world.server()
    opening = asyncio.create_task(connect_tunnel(f"127.0.0.1:{server.port}", "sb1:80"))
    stream = await server.accept()
    assert (await head_of(stream)).startswith(b"CONNECT sb1:80 HTTP/1.1\r\nHost: sb1:80\r\n")
    stream.write(answer.replace(b"Content-Length: 50", b"Content-Length: 53"))
    stream.write_eof()
    with pytest.raises(error):
        await opening
    with pytest.raises(ConnectionError):  # nothing is left open
        await to_end(stream)


async def test_opening_a_tunnel_is_bounded(world: World) -> None:
    server = await world.server()
    with pytest.raises(TimeoutError):
        await connect_tunnel(f"127.0.0.1:{server.port}", "sb1:80", timeout=0.05)
    with pytest.raises(ConnectionError):
        await to_end(await server.accept())


async def test_bytes_right_behind_the_200_belong_to_the_tunnel(world: World) -> None:
    server = await world.server()
    opening = asyncio.create_task(connect_tunnel(f"127.0.0.1:{server.port}", "sb1:80"))
    stream = await server.accept()
    stream.write(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0")
    async with await opening as tunnel:
        assert await exactly(tunnel, 7) == b"SSH-2.0"
