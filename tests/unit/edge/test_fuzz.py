"""Hostile clients and upstreams against a running listener: it answers or closes, and goes on serving."""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable

import pytest
from unit.edge.loopback import World, to_end, until
from unit.edge.test_head import SMUGGLING

from wrenn_server.edge.route import Refuse, ToApi, route
from wrenn_server.edge.target import Answer, Limits, Peer, Target, Upstream
from wrenn_server.wire.head import Head, parse_response
from wrenn_server.wire.stream import Stream

ROUNDS = int(os.environ.get("WRENN_FUZZ_ROUNDS", "400"))
REQUESTS = [
    *SMUGGLING.values(),
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\nHost: 3000-sb" + b"a" * 20 + b".x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nraw",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nok",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02ok",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
]
SPICE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"0",
    b"\xff",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1",
]


def mutated(chance: random.Random, samples: list[bytes]) -> bytes:
    data = bytearray(b"".join(chance.choice(samples) for _ in range(chance.choice((1, 1, 2, 3)))))
    for _ in range(chance.randrange(6)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at:at] = chance.choice(SPICE)
            case 1:
                del data[at : at + chance.randrange(9)]
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case _:
                data[at:at] = data[chance.randrange(len(data) + 1) :][:40]
    return bytes(data)


async def test_nothing_that_is_sent_stops_the_listener(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    server = await world.server()

    async def decide(head: Head, peer: Peer) -> Target:
        decision = route(head)
        if isinstance(decision, Refuse):
            return decision.answer
        if isinstance(decision, ToApi) and head.path == "/answer":
            return Answer(status=200, body=b"fine")
        return Upstream(connect=server.dial, key="k")

    async def play(stream: Stream) -> None:
        while await stream.read():
            stream.write(mutated(chance, RESPONSES))
            if chance.random() < 0.2:
                stream.close() if chance.random() < 0.5 else stream.abort()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(quietly(play(await server.next())))

    serving = asyncio.create_task(serve())
    listener = await world.listener(decide, Limits(head=0.5, idle=0.5, silence=0.5))
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    async def attack() -> None:
        client = await world.client(listener)
        data = mutated(chance, REQUESTS)
        cut = chance.randrange(len(data) + 1)
        client.write(data[:cut])
        await asyncio.sleep(0)
        client.write(data[cut:])
        if chance.random() < 0.5:
            client.write_eof()
        await quietly(to_end(client))
        client.abort()

    with caplog.at_level(logging.WARNING):
        for _ in range(ROUNDS // 40):
            await asyncio.gather(*(attack() for _ in range(40)))
    polite = await world.client(listener, b"GET /answer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await to_end(polite)).endswith(b"fine")
    await until(lambda: not listener.connections)
    serving.cancel()
    await asyncio.wait([serving])
    assert (failures, caplog.records) == ([], []), f"seed {seed}"


async def quietly(work: Awaitable[object]) -> None:
    with contextlib.suppress(ConnectionError):
        await work


NOT_SMUGGLED = {
    "nothing",
    "two heads at once",
    "body beside the head",
}  # bad as one head, right on a connection


@pytest.mark.parametrize("name", [name for name in SMUGGLING if name not in NOT_SMUGGLED])
async def test_no_smuggled_request_reaches_an_upstream(world: World, name: str) -> None:
    listener, server = await world.pair(Limits(head=0.2))
    client = await world.client(listener, SMUGGLING[name] + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: client.eof or client.lost)
    answer = client.take()
    assert parse_response(answer[: answer.index(b"\r\n\r\n") + 4]).status in (400, 408)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert server.accepted == 0
