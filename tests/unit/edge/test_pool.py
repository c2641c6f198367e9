"""When a connection to an upstream is used again, and when it must not be."""

import asyncio

import pytest
from unit.edge.loopback import Server, World, exactly, head_of, to_end, until

from wrenn_server.edge.sandbox import sandbox_upstream
from wrenn_server.edge.target import Limits, Peer, Target, Upstream
from wrenn_server.wire.head import Head, parse_request, parse_response
from wrenn_server.wire.stream import Stream

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_clients_share_idle_connections(world: World) -> None:
    listener, server = await world.pair(key="k")
    upstream = None
    for _ in range(3):
        client = await world.client(listener, GET)
        upstream = upstream or await server.accept()
        await head_of(upstream)
        upstream.write(OK)
        await head_of(client)
        assert await exactly(client, 2) == b"ok"
        client.close()
    assert server.accepted == 1


async def test_a_generation_is_never_served_by_another_ones_connection(world: World) -> None:
    server = await world.server()

    async def route(head: Head, peer: Peer) -> Target:
        return sandbox_upstream("sb1", int(head.fields["host"]), 8080, server.dial)

    listener = await world.listener(route)
    client = await world.client(listener)
    for generation in (b"1", b"2"):
        client.write(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % generation)
        upstream = await server.accept()
        assert parse_request(await head_of(upstream)).get("host") == generation.decode()
        upstream.write(OK)
        await head_of(client)
        await exactly(client, 2)
    assert server.accepted == 2


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ],
    ids=["close", "HTTP/1.0", "a response that nobody asked for"],
)
async def test_connections_that_are_not_used_again(world: World, response: bytes) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(listener)
    for _ in range(2):
        client.write(GET)
        upstream = await server.accept()
        await head_of(upstream)
        upstream.write(response)
        assert parse_response(await head_of(client)).get("content-length") == "2"
        assert await exactly(client, 2) == b"ok"
        with pytest.raises(ConnectionError):
            await to_end(upstream)


async def test_a_connection_that_speaks_while_idle_is_dropped(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(OK)
    await head_of(client)
    await exactly(client, 2)
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    await upstream.drain()
    dialled = server.dialled[0]
    await until(lambda: dialled.received > len(OK))
    client.write(GET)
    fresh = await server.accept()
    await head_of(fresh)
    fresh.write(OK)
    await head_of(client)
    assert await exactly(client, 2) == b"ok"


async def used_once(
    world: World, limits: Limits | None = None, keep: float = 1.5
) -> tuple[Server, Stream, Stream]:
    listener, server = await world.pair(limits, key="k", keep=keep)
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(OK)
    await head_of(client)
    await exactly(client, 2)
    return server, client, upstream


async def test_a_stale_connection_costs_a_replayable_request_nothing(world: World) -> None:
    server, client, upstream = await used_once(world)
    client.write(GET)
    await head_of(upstream)  # the server read it, and closes without a word
    upstream.close()
    fresh = await server.accept()
    await head_of(fresh)
    fresh.write(OK)
    assert parse_response(await head_of(client)).status == 200


@pytest.mark.parametrize("request_", [POST, b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"])
async def test_what_may_have_been_done_is_not_done_again(world: World, request_: bytes) -> None:
    server, client, upstream = await used_once(world)
    client.write(request_)
    await head_of(upstream)
    upstream.close()
    assert parse_response(await head_of(client)).status == 502
    assert server.accepted == 1


async def test_half_an_answer_is_not_replayed(world: World) -> None:
    server, client, upstream = await used_once(world)
    client.write(GET)
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 200")
    upstream.close()
    assert parse_response(await head_of(client)).status == 502
    assert server.accepted == 1


async def test_a_connection_closed_while_idle_is_not_tried(world: World) -> None:
    server, client, upstream = await used_once(world)
    upstream.close()
    await until(lambda: not server.open)
    client.write(POST)
    fresh = await server.accept()
    await head_of(fresh)
    fresh.write(OK)
    assert parse_response(await head_of(client)).status == 200


async def test_idle_connections_end_in_time(world: World) -> None:
    server, _, upstream = await used_once(world, keep=0.05, limits=Limits(head=0.2))
    with pytest.raises(ConnectionError):
        await to_end(upstream)
    assert not server.open


async def test_an_aborted_group_leaves_no_idle_connection(world: World) -> None:
    server = await world.server()
    listener = await world.listener(Upstream(connect=server.dial, key="k", group="sb1"))
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(OK)
    await head_of(client)
    await exactly(client, 2)
    listener.abort("sb1")
    with pytest.raises(ConnectionError):
        await to_end(upstream)
    client.write(POST)
    await head_of(await server.accept())


async def test_requests_at_the_same_time_have_connections_of_their_own(world: World) -> None:
    listener, server = await world.pair(key="k")
    clients = [await world.client(listener, GET) for _ in range(20)]
    upstreams = [await server.accept() for _ in clients]
    for upstream in reversed(upstreams):
        await head_of(upstream)
        upstream.write(OK)
    await asyncio.gather(*(head_of(client) for client in clients))
