"""Times and numbers that are bounded. The limits are set so short that only their effect is waited for."""

import asyncio
import json
import time

import pytest
from unit.edge.loopback import World, exactly, head_of, to_end, until

from wrenn_server.edge.target import Answer, Limits, Upstream
from wrenn_server.wire.head import parse_response
from wrenn_server.wire.stream import Stream

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
OK = Answer(status=200, body=b"ok")


async def test_a_head_that_drips_is_cut_off(world: World) -> None:
    listener = await world.listener(OK, Limits(head=0.3, idle=30))
    client = await world.client(listener)
    started = time.monotonic()

    async def drip() -> None:
        for byte in GET[:-1]:
            client.write(bytes([byte]))
            await asyncio.sleep(0.05)  # much faster than the limit: each byte must not buy more time

    dripping = asyncio.create_task(drip())
    assert parse_response(await head_of(client)).status == 408
    assert time.monotonic() - started < 1
    dripping.cancel()
    await until(lambda: not listener.connections)


async def test_silent_connections_end(world: World) -> None:
    listener = await world.listener(OK, Limits(head=0.5, idle=0.5))
    silent, used = await world.client(listener), await world.client(listener, GET)
    await head_of(used)
    assert await exactly(used, 2) == b"ok"
    for client in (silent, used):
        assert await to_end(client) == b""  # a FIN, not a reset
    await until(lambda: not listener.connections)


async def test_a_long_wait_for_the_response_is_no_silence(world: World) -> None:
    listener, server = await world.pair(Limits(head=0.05, idle=0.05, silence=30))
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    await asyncio.sleep(0.3)  # many times the other limits
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert parse_response(await head_of(client)).status == 200


async def test_silence_in_an_exchange_ends_it(world: World) -> None:
    listener, server = await world.pair(Limits(silence=0.1))
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    for stream in (client, upstream):
        with pytest.raises(ConnectionError):
            await to_end(stream)


async def test_connecting_is_bounded(world: World) -> None:
    async def never() -> Stream:
        await asyncio.Event().wait()
        raise AssertionError

    listener = await world.listener(Upstream(connect=never), Limits(connect=0.05))
    client = await world.client(listener, GET)
    assert parse_response(await head_of(client)).status == 504


async def test_connections_are_bounded(world: World) -> None:
    listener = await world.listener(OK, Limits(connections=2))
    clients = [await world.client(listener, GET) for _ in range(2)]
    for client in clients:
        assert parse_response(await head_of(client)).status == 200
    late = await world.client(listener)
    busy = parse_response(await head_of(late))
    assert busy.status == 503
    assert json.loads(await to_end(late))["error"]["request_id"] == busy.get("x-request-id")
    clients[0].close()
    await until(lambda: len(listener.connections) == 1)
    assert parse_response(await head_of(await world.client(listener, GET))).status == 200


async def test_a_client_that_never_takes_its_answer_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wrenn_server.edge.connection._FINISH", 0.2)
    big = Answer(status=200, body=b"x" * 20_000_000)
    listener = await world.listener(big, Limits(head=0.2))
    client = await world.client(listener, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    await head_of(client)
    client.transport.pause_reading()
    await until(lambda: not listener.connections)
