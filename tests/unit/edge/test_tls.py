"""The same ends over TLS, on the public side and between control plane and agent."""

import asyncio
import contextlib
import socket
import ssl

import pytest
from unit.edge.loopback import World, exactly, head_of, to_end, until

from support.certificates import self_signed
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Answer, Limits, Peer, Target, Tunnel, Upstream
from wrenn_server.wire.head import Head, parse_request
from wrenn_server.wire.http1 import connect_tunnel
from wrenn_server.wire.stream import connect_tcp

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """A server's and a client's, with a certificate for 127.0.0.1."""
    made = self_signed(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    return made.server(), made.client()


def port(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


async def test_requests_and_their_ends(world: World, contexts: Contexts) -> None:
    server = await world.server()
    listener = await world.listener(Upstream(connect=server.dial, group="sb1"), ssl=contexts[0])
    client = await connect_tcp("127.0.0.1", port(listener), ssl=contexts[1])
    for body in (b"one", b"two"):
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = await server.accept()
        assert parse_request(await head_of(upstream)).get("x-forwarded-proto") == "https"
        upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body)
        await head_of(client)
        assert await exactly(client, 3) == body
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = await server.accept()
    await head_of(upstream)
    client.close()
    with pytest.raises(ConnectionError):
        await to_end(upstream)
    killed = await connect_tcp("127.0.0.1", port(listener), ssl=contexts[1])
    killed.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = await server.accept()
    await head_of(upstream)
    upstream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    await head_of(killed)
    assert await exactly(killed, 6) == b"1\r\na\r\n"
    listener.abort("sb1")
    assert await to_end(killed) == b""  # without a final chunk


async def test_long_bodies_each_way(world: World, contexts: Contexts) -> None:
    server = await world.server()
    listener = await world.listener(Upstream(connect=server.dial, key="k"), ssl=contexts[0])
    client = await connect_tcp("127.0.0.1", port(listener), ssl=contexts[1])
    body = bytes(range(256)) * (2 << 12)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    client.write(post + body + post)
    upstream = await server.accept()
    for _ in range(2):
        await head_of(upstream)
        assert await exactly(upstream, len(body)) == body
        upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await head_of(client)
        assert await exactly(client, len(body)) == body
        client.write(body)


async def test_a_client_that_has_left_with_its_request(world: World, contexts: Contexts) -> None:
    """Request and close_notify come in one piece: nothing is begun for nobody."""
    server = await world.server()
    listener = await world.listener(Upstream(connect=server.dial), ssl=contexts[0])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts[1].wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    stream = await world.client(listener)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            stream.write(outgoing.read())
            incoming.write(await stream.read())
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.unwrap()
    stream.write(outgoing.read())
    await until(lambda: stream.eof or stream.lost)
    await until(lambda: not listener.connections)
    assert server.accepted == 0
    assert world.exchanges == []


async def test_tunnel_through_tls(world: World, contexts: Contexts) -> None:
    server = await world.server()

    async def route(head: Head, peer: Peer) -> Target:
        assert peer.tls
        return Tunnel(connect=server.dial, group=head.target)

    listener = await world.listener(route, ssl=contexts[0])
    big = b"x" * 3_000_000
    async with await connect_tunnel(listener.address, "sb1:80", ssl=contexts[1]) as tunnel:
        upstream = await server.accept()
        tunnel.write(big)
        assert await exactly(upstream, len(big)) == big
        upstream.write(big)
        upstream.close()
        assert await to_end(tunnel) == big
    async with await connect_tunnel(listener.address, "sb2:80", ssl=contexts[1]) as tunnel:
        upstream = await server.accept()
        listener.abort("sb2:80")
        with pytest.raises(ConnectionError):  # a break is no end
            await to_end(tunnel)


async def test_plain_text_to_a_tls_port_is_just_closed(world: World, contexts: Contexts) -> None:
    server = await world.server()
    listener = await world.listener(Upstream(connect=server.dial), ssl=contexts[0])
    client = await world.client(listener, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await to_end(client) == b""
    assert not listener.connections


async def test_idle_connections_do_not_hold_up_a_stop(world: World, contexts: Contexts) -> None:
    listener = await world.listener(Answer(status=200, body=b"ok"), Limits(grace=30), ssl=contexts[0])
    fresh = await connect_tcp("127.0.0.1", port(listener), ssl=contexts[1])
    # A client that only looks at its idle connection again when it has a next request.
    used = socket.create_connection(("127.0.0.1", port(listener)))
    deaf = await asyncio.to_thread(contexts[1].wrap_socket, used, server_hostname="127.0.0.1")
    deaf.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await asyncio.to_thread(deaf.recv, 4096)
    async with asyncio.timeout(10), fresh:
        await listener.__aexit__()
    assert not listener.connections
    with deaf:
        assert await asyncio.to_thread(deaf.recv, 4096) == b"", "an end, not a reset"
