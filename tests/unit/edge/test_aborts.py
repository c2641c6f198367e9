"""Ends that are not regular: the client leaves, the upstream dies, a sandbox is killed, the listener stops."""

import asyncio

import pytest
from unit.edge.loopback import World, exactly, head_of, to_end, until

from wrenn_server.edge.target import Answer, Limits, Peer, Target, Tunnel, Upstream
from wrenn_server.wire.body import chunk
from wrenn_server.wire.head import Head, parse_response
from wrenn_server.wire.http1 import connect_tunnel
from wrenn_server.wire.stream import Stream

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
STREAMING = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
STATES = ["before the response", "within the response", "within the upload"]


async def in_state(world: World, state: str, key: str | None = None) -> tuple[Stream, Stream]:
    """Client and upstream of an exchange that has come this far."""
    listener, server = await world.pair(key=key)
    if state == "within the upload":
        client = await world.client(listener, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        upstream = await server.accept()
        await head_of(upstream)
        await exactly(upstream, 3)
        return client, upstream
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    if state == "within the response":
        upstream.write(STREAMING)
        await head_of(client)
        await exactly(client, 10)
    return client, upstream


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_leaves_resets_the_upstream(world: World, state: str, how: str) -> None:
    client, upstream = await in_state(world, state, key="k")
    getattr(client, how)()
    with pytest.raises(ConnectionError):
        await to_end(upstream)
    await until(lambda: len(world.exchanges) == 1)
    assert world.exchanges[0].aborted


async def test_a_client_that_leaves_while_connecting(world: World) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def dial() -> Stream:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    client = await world.client(await world.listener(Upstream(connect=dial)), GET)
    await started.wait()
    client.close()
    async with asyncio.timeout(5):
        await cancelled.wait()


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_an_upstream_that_dies_within_chunks_leaves_no_final_chunk(world: World, how: str) -> None:
    client, upstream = await in_state(world, "within the response")
    upstream.write(b"6\r\n world")
    assert await exactly(client, 11) == b"6\r\n world\r\n"
    getattr(upstream, how)()
    assert await to_end(client) == b""
    assert world.exchanges[0].aborted


async def test_what_was_sent_before_the_death_arrives(world: World) -> None:
    client, upstream = await in_state(world, "within the response")
    upstream.write(b"3\r\nend\r\n")
    upstream.close()
    assert await to_end(client) == b"3\r\nend\r\n"


async def test_a_length_that_is_not_reached(world: World) -> None:
    client, upstream = await in_state(world, "before the response")
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    upstream.close()
    await head_of(client)
    assert await to_end(client) == b"hello"
    assert world.exchanges[0].aborted


async def test_a_broken_body_until_close_resets_a_client_that_could_not_tell(world: World) -> None:
    listener, server = await world.pair()
    client = await world.client(listener, b"GET / HTTP/1.0\r\n\r\n")
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
    await head_of(client)
    assert await exactly(client, 5) == b"hello"
    upstream.abort()
    with pytest.raises(ConnectionError):
        await to_end(client)


@pytest.mark.parametrize("state", ["before the response", "within the upload"])
async def test_an_upstream_that_dies_before_it_answers(world: World, state: str) -> None:
    client, upstream = await in_state(world, state)
    upstream.abort()
    assert parse_response(await head_of(client)).status == 502


@pytest.mark.parametrize("state", STATES)
async def test_abort_of_a_group(world: World, state: str) -> None:
    server = await world.server()

    async def route(head: Head, peer: Peer) -> Target:
        return Upstream(connect=server.dial, group=head.fields["host"])

    listener = await world.listener(route)
    pairs: list[tuple[Stream, Stream]] = []
    for host in (b"killed", b"other"):
        length = b"Content-Length: 9\r\n" if state == "within the upload" else b""
        client = await world.client(listener, b"POST / HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (host, length))
        upstream = await server.accept()
        await head_of(upstream)
        if state == "within the response":
            upstream.write(STREAMING)
            await head_of(client)
            await exactly(client, 10)
        pairs.append((client, upstream))
    listener.abort("killed")
    (client, upstream), (other_client, other) = pairs
    with pytest.raises(ConnectionError):
        await to_end(upstream)
    if state == "within the response":
        assert await to_end(client) == b""
    else:
        assert parse_response(await head_of(client)).status == 502
    if state == "within the upload":
        other_client.write(b"x" * 9)
        await exactly(other, 9)
    if state != "within the response":
        other.write(STREAMING)
        await head_of(other_client)
        await exactly(other_client, 10)
    other.write(b"0\r\n\r\n")
    assert await exactly(other_client, 5) == b"0\r\n\r\n"


async def test_abort_of_a_group_that_is_still_connecting(world: World) -> None:
    started = asyncio.Event()

    async def dial() -> Stream:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    gone = Answer(status=502, body=b"gone")
    listener = await world.listener(Upstream(connect=dial, group="sb1", broken=gone))
    client = await world.client(listener, GET)
    await started.wait()
    listener.abort("sb1")
    assert parse_response(await head_of(client)).status == 502
    assert await exactly(client, 4) == b"gone"


@pytest.mark.parametrize("who", ["client", "upstream", "group"])
async def test_a_tunnel_that_breaks_is_reset_at_the_other_end(world: World, who: str) -> None:
    server = await world.server()
    listener = await world.listener(Tunnel(connect=server.dial, group="sb1"))
    tunnel = await connect_tunnel(listener.address, "sb1:80")
    upstream = await server.accept()
    tunnel.write(b"a")
    await exactly(upstream, 1)
    match who:
        case "client":
            tunnel.abort()
        case "upstream":
            upstream.abort()
        case _:
            listener.abort("sb1")
    for stream in {"client": [upstream], "upstream": [tunnel], "group": [tunnel, upstream]}[who]:
        with pytest.raises(ConnectionError):
            await to_end(stream)
    await until(lambda: len(world.exchanges) == 1)
    assert world.exchanges[0].aborted
    tunnel.abort()


async def flood(stream: Stream, total: int, sent: list[int], piece: bytes = b"x" * 100_000) -> None:
    for _ in range(total // 100_000):
        stream.write(piece)
        sent.append(100_000)
        await stream.drain()


async def test_a_slow_reader_slows_the_upstream(world: World) -> None:
    listener, server = await world.pair()
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    await head_of(client)
    client.transport.pause_reading()
    sent: list[int] = []
    flooding = asyncio.create_task(flood(upstream, 100_000_000, sent))
    await asyncio.wait([flooding], timeout=0.5)  # unhindered it would be done
    assert not flooding.done()
    assert sum(sent) < 50_000_000
    client.transport.resume_reading()
    received = 0
    while received < 100_000_000:
        received += len(await client.read())
    await flooding


@pytest.mark.parametrize("framing", [b"Content-Length: 100000000", b"Transfer-Encoding: chunked"])
async def test_a_slow_upstream_slows_the_upload(world: World, framing: bytes) -> None:
    listener, server = await world.pair()
    client = await world.client(listener, b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.transport.pause_reading()
    sent: list[int] = []
    piece = b"x" * 100_000 if b"Length" in framing else chunk(b"x" * 100_000)
    flooding = asyncio.create_task(flood(client, 100_000_000, sent, piece))
    await asyncio.wait([flooding], timeout=0.5)  # unhindered it would be done
    assert not flooding.done()
    assert sum(sent) < 50_000_000
    upstream.transport.resume_reading()
    received = 0
    while received < 100_000_000:
        received += len(await upstream.read())
    await flooding


async def test_a_regular_stop_lets_requests_finish(world: World) -> None:
    listener, server = await world.pair(key="k")
    idle = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await head_of(idle)
    busy = await world.client(listener, GET)
    await head_of(upstream)
    stopping = asyncio.create_task(listener.__aexit__())
    assert await to_end(idle) == b""
    with pytest.raises(ConnectionError):
        await world.client(listener)
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await head_of(busy)
    assert await to_end(busy) == b"ok"
    await stopping
    assert not listener.connections
    with pytest.raises(ConnectionError):
        await to_end(upstream)


async def test_a_stop_does_not_wait_for_ever(world: World) -> None:
    listener, server = await world.pair(Limits(grace=0.05))
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    await listener.__aexit__()
    for stream in (client, upstream):
        with pytest.raises(ConnectionError):
            await to_end(stream)
