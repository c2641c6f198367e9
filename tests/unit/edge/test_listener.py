"""Requests through a listener: framing both ways, one connection for many upstreams, upgrades, tunnels."""

import json

import pytest
import websockets
from unit.edge.loopback import World, exactly, head_of, to_end, until
from websockets.asyncio.server import ServerConnection, serve

from wrenn_server.edge.sandbox import sandbox_upstream
from wrenn_server.edge.target import Answer, Peer, Refused, Target, Tunnel, Upstream
from wrenn_server.model.errors import NotFound, WrennError
from wrenn_server.wire import envd
from wrenn_server.wire.head import Head, parse_request, parse_response
from wrenn_server.wire.http1 import Connection, connect_tunnel
from wrenn_server.wire.stream import connect_tcp, connect_unix

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_each_request_of_a_connection_goes_where_it_belongs(world: World) -> None:
    servers = {name: await world.server() for name in ("a", "b")}

    async def route(head: Head, peer: Peer) -> Target:
        name = head.fields["host"]
        if name == "c":
            return Answer(status=404, body=b"none")
        return Upstream(connect=servers[name].dial, key=name)

    client = await world.client(await world.listener(route))
    for name in ("a", "b"):
        client.write(b"GET /1 HTTP/1.1\r\nHost: %b\r\n\r\n" % name.encode())
        upstream = await servers[name].accept()
        assert parse_request(await head_of(upstream)).get("host") == name
        upstream.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nWho: %b\r\n\r\n%b" % (name.encode(), name.encode())
        )
        assert parse_response(await head_of(client)).get("who") == name
        assert await exactly(client, 1) == name.encode()
    client.write(b"POST / HTTP/1.1\r\nHost: c\r\nContent-Length: 4\r\n\r\nbody")
    assert parse_response(await head_of(client)).status == 404
    assert await exactly(client, 4) == b"none"
    assert [exchange.status for exchange in world.exchanges] == [200, 200, 404]


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(
        listener, GET + b"POST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + GET
    )
    upstream = await server.accept()
    for number, body in enumerate((b"", b"abc", b"")):
        await head_of(upstream)
        assert await exactly(upstream, len(body)) == body
        upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
        await head_of(client)
        assert await exactly(client, 1) == b"%d" % number
    assert server.accepted == 1


async def test_headers_that_reach_the_upstream(world: World) -> None:
    listener, server = await world.pair()
    await world.client(
        listener,
        b"GET http://a:1/p%2Fq?x HTTP/1.1\r\nHost: a:1\r\nConnection: X-Drop\r\nX-Drop: 1\r\nX-Keep: 2\r\n"
        b"X-Forwarded-For: 6.6.6.6\r\n\r\n",
    )
    head = parse_request(await head_of(await server.accept()))
    assert head.target == "/p%2Fq?x"
    assert head.get("x-drop") is None
    assert head.get("x-keep") == "2"
    assert head.get("x-forwarded-for") == "127.0.0.1"
    assert head.get("connection") == "close"  # an upstream without key is used once


async def test_chunked_bodies_are_framed_anew_both_ways(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(
        listener, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nab"
    )
    upstream = await server.accept()
    assert parse_request(await head_of(upstream)).get("transfer-encoding") == "chunked"
    assert await exactly(upstream, 7) == b"2\r\nab\r\n"
    client.write(b"c\r\n0\r\nTrailer: x\r\n\r\n")
    assert await exactly(upstream, 11) == b"1\r\nc\r\n0\r\n\r\n"
    upstream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
    assert parse_response(await head_of(client)).get("transfer-encoding") == "chunked"
    assert await exactly(client, 7) == b"2\r\nab\r\n"
    upstream.write(b"0\r\n\r\n")
    assert await exactly(client, 5) == b"0\r\n\r\n"
    client.write(GET)
    assert parse_request(await head_of(upstream)).target == "/x"  # both connections went on


async def test_the_response_may_begin_before_the_request_ends(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(listener, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await head_of(client)
    for word in (b"one", b"two"):
        client.write(b"3\r\n%b\r\n" % word)
        assert await exactly(upstream, 8) == b"3\r\n%b\r\n" % word
        upstream.write(b"3\r\n%b\r\n" % word)
        assert await exactly(client, 8) == b"3\r\n%b\r\n" % word
    client.write(b"0\r\n\r\n")
    assert await exactly(upstream, 5) == b"0\r\n\r\n"
    upstream.write(b"0\r\n\r\n")
    assert await exactly(client, 5) == b"0\r\n\r\n"
    client.write(GET)
    assert parse_request(await head_of(upstream)).target == "/x"


async def test_an_early_refusal_reaches_a_client_that_still_uploads(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(listener, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert parse_response(await head_of(client)).status == 413
    client.write(b"x" * 100_000)
    assert await to_end(client) == b"no"  # then FIN, not RST
    with pytest.raises(ConnectionError):
        await to_end(upstream)


async def test_expect_continue_is_the_upstreams_decision(world: World) -> None:
    listener, server = await world.pair(key="k")
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    client = await world.client(listener, request)
    upstream = await server.accept()
    assert parse_request(await head_of(upstream)).get("expect") == "100-continue"
    upstream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert await head_of(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.write(b"abc")
    assert await exactly(upstream, 3) == b"abc"
    upstream.write(OK)
    assert await head_of(client) + await exactly(client, 2) == OK
    client.write(request)
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    head = parse_response(await head_of(client))
    assert (head.status, head.get("connection")) == (401, "close")
    assert await to_end(client) == b""


@pytest.mark.parametrize(("status", "method"), [(204, b"GET"), (304, b"GET"), (200, b"HEAD")])
async def test_responses_without_body(world: World, status: int, method: bytes) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(listener, method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = await server.accept()
    await head_of(upstream)
    length = b"" if status == 204 else b"Content-Length: 7\r\n"
    upstream.write(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, length))
    await head_of(client)
    client.write(GET)
    assert parse_request(await head_of(upstream)).target == "/x"


async def test_a_body_until_close_is_chunked_for_the_client(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
    upstream.close()
    assert parse_response(await head_of(client)).get("transfer-encoding") == "chunked"
    assert await exactly(client, 15) == b"5\r\nhello\r\n0\r\n\r\n"
    client.write(GET)
    await head_of(await server.accept())


async def test_http_1_0_clients_get_no_chunks(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(listener, b"GET / HTTP/1.0\r\n\r\n")
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    head = parse_response(await head_of(client))
    assert (head.get("transfer-encoding"), head.get("connection")) == (None, "close")
    assert await to_end(client) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"",
    ],
    ids=["no HTTP", "ambiguous", "too long", "101 unasked", "only interim", "nothing"],
)
async def test_a_bad_upstream_is_a_502(world: World, answer: bytes) -> None:
    listener, server = await world.pair()
    client = await world.client(listener, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(answer)
    upstream.write_eof()
    text = await to_end(client)
    assert b"HTTP/1.1 502 Bad Gateway\r\n" in text
    assert b'"code":"bad_gateway"' in text


async def test_malformed_chunks_are_a_400(world: World) -> None:
    listener, server = await world.pair()
    start = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    at_once = await world.client(listener, start + b"zz\r\n")
    assert parse_response(await head_of(at_once)).status == 400
    later = await world.client(listener, start + b"1\r\na\r\n")
    await server.accept()
    upstream = await server.accept()
    await head_of(upstream)
    assert await exactly(upstream, 6) == b"1\r\na\r\n"
    later.write(b"zz\r\n")
    assert parse_response(await head_of(later)).status == 400
    with pytest.raises(ConnectionError):
        await to_end(upstream)


async def test_malformed_heads_are_answered_and_the_connection_ends(world: World) -> None:
    listener, server = await world.pair()
    for head, status in (
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),  # without a CRLF that ends it
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            + GET,
            400,
        ),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 201 + b"\r\n", 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ):
        client = await world.client(listener, head)
        answer = parse_response(await head_of(client))
        assert (answer.status, answer.get("connection")) == (status, "close")
        problem = json.loads(await to_end(client))
        assert problem["error"]["code"]
        assert problem["error"]["request_id"] == answer.get("x-request-id")
    assert server.accepted == 0


async def test_what_a_route_or_connect_raises_becomes_an_answer(world: World) -> None:
    async def refuse() -> None:
        raise Refused(Answer(status=502, body=b"refused"))

    async def route(head: Head, peer: Peer) -> Target:
        match head.path:
            case "/refused":
                await refuse()
            case "/error":
                raise NotFound("no such thing", code="thing_not_found")
            case "/bug":
                raise ZeroDivisionError
            case _:
                pass
        return Tunnel(connect=(await world.server()).dial)

    listener = await world.listener(route)
    async with Connection(await connect_tcp("127.0.0.1", int(listener.address.rpartition(":")[2]))) as client:
        for path, status, part in (
            ("/refused", 502, b"refused"),
            ("/error", 404, b"thing_not_found"),
            ("/bug", 500, b"internal_error"),
            ("/tunnel", 405, b"method_not_allowed"),
        ):
            response = await client.request("GET", path)
            assert response.status == status
            assert response.header("x-request-id")
            assert part in await response.read(limit=1000)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            WrennError("x", code="port_not_open"),
            502,
            {
                "sandboxId": "sb1",
                "message": "The sandbox is running but port is not open",
                "port": 8080,
                "code": 502,
            },
        ),
        (
            WrennError("x", code="sandbox_not_found"),
            502,
            {"sandboxId": "sb1", "message": "The sandbox was not found", "code": 502},
        ),
        (
            TimeoutError(),
            503,
            {"sandboxId": "sb1", "message": "The host of the sandbox cannot be reached now", "code": 503},
        ),
    ],
)
async def test_refusals_of_a_sandbox(world: World, error: Exception, status: int, body: object) -> None:
    async def dial() -> None:
        raise error

    listener = await world.listener(sandbox_upstream("sb1", 1, 8080, dial))  # pyright: ignore[reportArgumentType]  # it only raises
    client = await world.client(listener, GET)
    assert parse_response(await head_of(client)).status == status
    assert json.loads(client.take()) == body


async def test_a_port_that_is_just_opening(world: World) -> None:
    server = await world.server()
    refusals = 3

    async def dial():
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise ConnectionRefusedError
        return await server.dial()

    listener = await world.listener(Upstream(connect=dial, retry_refused=True))
    client = await world.client(listener, GET)
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(OK)
    assert parse_response(await head_of(client)).status == 200
    closed = Answer(status=502, body=b"closed")
    refusals = 1
    once = await world.client(await world.listener(Upstream(connect=dial, refused=closed)), GET)
    assert parse_response(await head_of(once)).status == 502


async def test_websocket_echo(world: World) -> None:
    async def echo(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.send(message)

    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        listener = await world.listener(Upstream(connect=lambda: connect_tcp("127.0.0.1", port), key="k"))
        uri = f"ws://{listener.address}/ws"
        async with (
            websockets.connect(uri) as one,
            websockets.connect(uri, compression=None, max_size=None) as two,
        ):
            big = b"\xff" * 3_000_000
            for number in range(50):
                await one.send(f"message {number}")
                assert await one.recv() == f"message {number}"
            await two.send(big)
            assert await two.recv() == big
        await until(lambda: len(world.exchanges) == 2)
        assert {(exchange.status, exchange.aborted) for exchange in world.exchanges} == {(101, False)}
        assert max(exchange.sent for exchange in world.exchanges) > len(big)


async def test_h2c_and_forbidden_upgrades_are_plain_requests(world: World) -> None:
    for protocol, allowed in ((b"h2c", True), (b"websocket, H2C", True), (b"websocket", False)):
        listener, server = await world.pair(upgrade=allowed)
        await world.client(
            listener,
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AA\r\n\r\n"
            % protocol,
        )
        head = parse_request(await head_of(await server.accept()))
        assert head.get("upgrade") is None
        assert head.get("connection") == "close"
        assert head.get("http2-settings") is None


@pytest.mark.parametrize(("port", "seen"), [(8080, "websocket"), (envd.PORT, None)])
async def test_upgrades_are_for_the_users_own_ports(world: World, port: int, seen: str | None) -> None:
    server = await world.server()
    listener = await world.listener(sandbox_upstream("sb1", 1, port, server.dial))
    await world.client(
        listener, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert parse_request(await head_of(await server.accept())).get("upgrade") == seen


async def test_an_upgrade_that_is_declined_is_an_answer(world: World) -> None:
    listener, server = await world.pair(key="k")
    client = await world.client(
        listener, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    )
    upstream = await server.accept()
    assert parse_request(await head_of(upstream)).get("upgrade") == "x"
    upstream.write(OK)
    assert parse_response(await head_of(client)).status == 200


async def test_tunnel(world: World) -> None:
    server = await world.server()

    async def route(head: Head, peer: Peer) -> Target:
        if head.method != "CONNECT":
            return Answer(status=200, body=b"api")
        if head.get("authorization") != "Bearer t":
            raise NotFound("no such sandbox", code="sandbox_not_found")
        return Tunnel(connect=server.dial, group="sb1")

    listener = await world.listener(route)
    with pytest.raises(NotFound) as caught:
        await connect_tunnel(listener.address, "sb1:80")
    assert caught.value.code == "sandbox_not_found"
    async with await connect_tunnel(
        listener.address, "sb1:80", headers=[("Authorization", "Bearer t")]
    ) as tunnel:
        upstream = await server.accept()
        tunnel.write(b"\x00ping\xff")
        assert await exactly(upstream, 6) == b"\x00ping\xff"
        tunnel.write_eof()
        assert await to_end(upstream) == b""
        upstream.write(b"still open this way")
        upstream.close()
        assert await to_end(tunnel) == b"still open this way"


async def test_unix_sockets_at_both_ends(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    inner = await world.listener(Answer(status=200, body=b"inner"), address=str(folder / "inner"))
    outer = await world.listener(
        Upstream(connect=lambda: connect_unix(inner.address), key="api"), address=str(folder / "outer")
    )
    async with Connection(await connect_unix(outer.address)) as client:
        for _ in range(2):
            response = await client.request("GET", "/")
            assert await response.read(limit=10) == b"inner"
