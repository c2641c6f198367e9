"""Long bodies of a known length go from socket to socket; what comes after them, or instead of them, does not."""

import asyncio

import pytest
from unit.edge.loopback import World, exactly, head_of, to_end, until

from wrenn_server.wire.head import parse_request, parse_response
from wrenn_server.wire.stream import Stream

SIZE = 3 << 20
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
BODY = bytes(range(256)) * (SIZE // 256)


async def begun(world: World, request: bytes = GET) -> tuple[Stream, Stream]:
    """A client, and the upstream that has its request's head."""
    listener, server = await world.pair(key="k")
    client = await world.client(listener, request)
    upstream = await server.accept()
    await head_of(upstream)
    return client, upstream


async def test_bodies_in_turn_over_the_same_connections(world: World) -> None:
    client, upstream = await begun(world)
    for _ in range(3):
        upstream.write(OK + BODY)
        await head_of(client)
        assert await exactly(client, SIZE) == BODY
        client.write(POST + BODY)
        assert parse_request(await head_of(upstream)).method == "POST"
        assert await exactly(upstream, SIZE) == BODY
        upstream.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        assert parse_response(await head_of(client)).status == 201
        client.write(GET)
        await head_of(upstream)
    assert [exchange.sent for exchange in world.exchanges] == [SIZE, 0] * 3
    assert [exchange.received for exchange in world.exchanges] == [0, SIZE] * 3


async def test_a_response_that_runs_on_does_not_reach_the_next_client(world: World) -> None:
    client, upstream = await begun(world)
    upstream.write(OK + BODY + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    await head_of(client)
    assert await exactly(client, SIZE) == BODY
    client.write(GET)
    with pytest.raises(ConnectionError):
        await to_end(upstream)  # its connection is not used again
    await until(lambda: len(world.exchanges) == 1)
    assert client.buffered == 0


async def test_a_request_that_runs_on_is_the_next_request(world: World) -> None:
    client, upstream = await begun(world, POST + BODY + GET)
    assert await exactly(upstream, SIZE) == BODY
    upstream.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    assert parse_response(await head_of(client)).status == 201
    assert parse_request(await head_of(upstream)).method == "GET"


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_an_upstream_that_breaks_off(world: World, how: str) -> None:
    client, upstream = await begun(world)
    upstream.write(OK + BODY[: SIZE // 2])
    await head_of(client)
    assert await exactly(client, SIZE // 2) == BODY[: SIZE // 2]
    getattr(upstream, how)()
    assert await to_end(client) == b""
    await until(lambda: len(world.exchanges) == 1)
    assert world.exchanges[0].aborted
    assert world.exchanges[0].sent == SIZE // 2


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_leaves(world: World, how: str, caplog: pytest.LogCaptureFixture) -> None:
    client, upstream = await begun(world)
    upstream.write(OK + BODY[: SIZE // 2])
    await head_of(client)
    await exactly(client, SIZE // 2)
    getattr(client, how)()
    with pytest.raises(ConnectionError):
        await to_end(upstream)
    await until(lambda: len(world.exchanges) == 1)
    assert world.exchanges[0].aborted
    assert not caplog.records


async def test_an_upstream_that_answers_before_the_upload_has_ended(world: World) -> None:
    client, upstream = await begun(world, POST + BODY[: SIZE // 2])
    assert await exactly(upstream, SIZE // 2) == BODY[: SIZE // 2]
    upstream.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    upstream.close()
    assert parse_response(await head_of(client)).status == 413
    client.write(BODY[SIZE // 2 :])
    assert await to_end(client) == b""


async def test_a_client_that_does_not_read_holds_the_upstream(world: World) -> None:
    """The kernel's buffers and one or two pieces in between, not the body."""
    client, upstream = await begun(world)
    client.transport.pause_reading()
    size = 64 << 20
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    sent = 0
    while sent < size:
        upstream.write(BODY)
        sent += SIZE
        try:
            async with asyncio.timeout(0.5):
                await upstream.drain()
        except TimeoutError:
            break
    assert sent < size
    client.transport.resume_reading()
    await head_of(client)
    while sent < size:
        upstream.write(BODY[: size - sent])
        sent += min(SIZE, size - sent)
    received = 0
    async with asyncio.timeout(10):
        while received < size:
            received += len(await client.read())
    assert received == size
