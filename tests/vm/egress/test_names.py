"""Rules by name: what the resolver and the proxy of a sandbox let through, and what they do not."""

import asyncio
import contextlib
import errno
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from vm.egress.internet import ALLOWED, CDN, OTHER, POUR, RESOLVER, RULES, Internet, addresses, ask, http, tls

from support import network_world as net
from support.network_world import FORBIDDEN, HOST_ADDRESS, Connection, Guest, pool
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.egress import proxy
from wrenn_server.hostagent.network.egress.enforcer import Enforcer
from wrenn_server.hostagent.network.slots import Slots
from wrenn_server.wire.agent import Network

GET = "GET / HTTP/1.1\nHost: allowed.example\n\n"


async def echoes(connection: Connection, data: bytes = b"hello") -> bool:
    reader, writer = connection
    writer.write(data)
    async with asyncio.timeout(20):
        return await reader.readexactly(len(data)) == data


async def refuses(guest: Guest, address: str, name: str | None, internet: Internet) -> bool:
    """TLS to that address under that name is denied by the proxy, and nothing has come to the server."""
    before = len(internet.requests)
    with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
        await tls(guest, address, name, internet.authority)
    return len(internet.requests) == before


# Connections.


async def test_an_allowed_name_is_reached(internet: Internet, egress: Enforcer, guest: Guest) -> None:
    [address] = addresses(await ask(guest, "allowed.example"))
    connection = await tls(guest, address, "allowed.example", internet.authority)
    assert await echoes(connection)
    assert "200 OK" in await http(guest, address, GET)
    assert internet.requests == [f"{ALLOWED} TLS", f"{ALLOWED} GET allowed.example /"]


async def test_an_address_that_was_learned_elsewhere_is_looked_up(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    connection = await tls(guest, CDN, "a.cdn.example", internet.authority)
    assert await echoes(connection)
    assert internet.host_resolver.asked == [("127.0.0.1", "a.cdn.example A")]


async def test_a_forged_name_does_not_open_another_address(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    await ask(guest, "allowed.example")
    await ask(guest, "a.cdn.example")
    assert await refuses(guest, OTHER, "allowed.example", internet)
    assert await refuses(guest, CDN, "allowed.example", internet)
    assert await refuses(guest, ALLOWED, "b.cdn.example", internet)
    assert await refuses(guest, ALLOWED, "rebound.example", internet)
    answer = await http(guest, OTHER, GET)
    assert answer.startswith("HTTP/1.1 403 ")
    assert f"{OTHER} is not an address of allowed.example" in answer
    assert not internet.requests


async def test_an_allowed_address_does_not_open_another_name(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    for name in ("other.example", "neighbour.example", "allowed.example.evil.org", "cdn.example", None):
        assert await refuses(guest, ALLOWED, name, internet)
    for request in (
        "GET / HTTP/1.1\nHost: other.example\n\n",
        "GET / HTTP/1.1\nHost: neighbour.example\n\n",
        f"GET / HTTP/1.1\nHost: {ALLOWED}\n\n",
        "GET / HTTP/1.0\n\n",
        "GET / HTTP/1.1\nHost: allowed.example\nHost: other.example\n\n",
        "GET / HTTP/1.1\nHost: allowed.example, other.example\n\n",
        "GET / HTTP/1.1\nHost: allowed.example:8080\n\n",
        "GET http://other.example/ HTTP/1.1\nHost: allowed.example\n\n",
        "GET http://allowed.example/ HTTP/1.1\nHost: other.example\n\n",
        "GET https://allowed.example/ HTTP/1.1\nHost: allowed.example\n\n",
        "GET http://allowed.example@other.example/ HTTP/1.1\nHost: allowed.example\n\n",
        "CONNECT allowed.example:80 HTTP/1.1\nHost: allowed.example:80\n\n",
        "CONNECT other.example:443 HTTP/1.1\nHost: allowed.example\n\n",
        "GET / HTTP/1.1\nHost : allowed.example\n\n",
        "GET / HTTP/1.1\n Host: allowed.example\n\n",
        "POST / HTTP/1.1\nHost: allowed.example\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n",
        "PRI * HTTP/2.0\n\nSM\n\n",
        "SSH-2.0-OpenSSH_9.2\n\n",
    ):
        assert (await http(guest, ALLOWED, request)).startswith("HTTP/1.1 403 "), request
    assert not internet.requests


async def test_tls_and_http_each_have_their_port(internet: Internet, egress: Enforcer, guest: Guest) -> None:
    with pytest.raises(ssl.SSLError):
        await tls(guest, ALLOWED, "allowed.example", internet.authority, port=80)
    assert "200 OK" not in await http(guest, ALLOWED, GET, port=443)
    assert not internet.requests


async def test_other_ports_stay_closed(internet: Internet, egress: Enforcer, guest: Guest) -> None:
    await ask(guest, "allowed.example")
    for port in (22, 444, 8080, 853, 3129):
        with pytest.raises(OSError, match=ALLOWED) as refused:
            await guest.connect(ALLOWED, port)
        assert refused.value.errno == errno.EHOSTUNREACH
    with await guest.udp_socket() as client:  # QUIC, told at once so that clients fall back
        client.connect((ALLOWED, 443))
        client.send(b"initial")
        with pytest.raises(OSError, match="route"):
            await net.receive(client)


async def test_the_doors_themselves_are_shut(internet: Internet, egress: Enforcer, guest: Guest) -> None:
    """Only what was meant for somebody else is let in; and no way leads to what the platform blocks."""
    for port in (53, 3129):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await guest.connect("169.254.0.22", port)
    for address in FORBIDDEN[:-1]:
        for port in (80, 443):
            with pytest.raises(OSError, match=address):
                await guest.connect(address, port)


async def test_a_name_of_the_host_itself_leads_nowhere(
    internet: Internet, egress: Enforcer, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "DIAL", 0.3)
    came = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        writer.close()

    async with await asyncio.start_server(serve, HOST_ADDRESS, 80):
        assert addresses(await ask(guest, "host.example")) == [HOST_ADDRESS]
        request = "GET / HTTP/1.1\nHost: host.example\n\n"
        with pytest.raises(ConnectionResetError):
            await http(guest, HOST_ADDRESS, request)
        assert not came.is_set()


async def test_each_request_has_a_connection_of_its_own(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    second = "GET /second HTTP/1.1\nHost: neighbour.example\n\n"
    answer = await http(guest, ALLOWED, GET + second)
    assert answer.count("200 OK") == 1
    body = "POST / HTTP/1.1\nHost: allowed.example\nContent-Length: 4\n\nbody" + second
    assert (await http(guest, ALLOWED, body)).endswith("allowed.example body")
    chunks = (
        "POST / HTTP/1.1\nHost: allowed.example\nTransfer-Encoding: chunked\n\n3\nchu\n4\nnked\n0\n\n"
        + second
    )
    assert (await http(guest, ALLOWED, chunks)).endswith("allowed.example chunked")
    upgrade = "GET / HTTP/1.1\nHost: allowed.example\nConnection: upgrade\nUpgrade: h2c\n\n" + second
    assert (await http(guest, ALLOWED, upgrade)).count("200 OK") == 1
    ignored = "GET / HTTP/1.1\nHost: allowed.example\nConnection: upgrade\nUpgrade: unknown\n\n" + second
    reader, writer = await guest.connect(ALLOWED, 80)
    writer.write(ignored.replace("\n", "\r\n").encode())
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    assert {request.split()[2] for request in internet.requests} == {"allowed.example"}
    assert len(internet.requests) == 5


async def test_websockets_pass(internet: Internet, egress: Enforcer, guest: Guest) -> None:
    reader, writer = await guest.connect(ALLOWED, 80)
    request = "GET /ws HTTP/1.1\nHost: allowed.example\nConnection: Upgrade\nUpgrade: websocket\n\n"
    writer.write(request.replace("\n", "\r\n").encode())
    async with asyncio.timeout(10):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    assert await echoes((reader, writer), b"frame")


async def test_much_passes_and_whoever_does_not_read_stops_the_sender(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    reader, writer = await guest.connect(ALLOWED, 80)
    request = b"GET /pour HTTP/1.1\r\nHost: allowed.example\r\n\r\n"
    writer.write(request + bytes(1 << 20))  # what nobody takes must not cost the end of the answer
    await reader.readuntil(b"\r\n\r\n")
    before = -1
    while before != internet.poured:
        before = internet.poured
        await asyncio.sleep(0.3)
    assert internet.poured < POUR
    async with asyncio.timeout(60):
        assert len(await reader.read()) == POUR << 20


# Changes, bounds, ends.


async def test_a_name_that_is_denied_later_loses_its_connections(
    internet: Internet, egress: Enforcer, guest: Guest
) -> None:
    lost = await tls(guest, ALLOWED, "allowed.example", internet.authority)
    kept = await tls(guest, CDN, "a.cdn.example", internet.authority)
    await egress.apply(Network(internet=False, allow_out=["*.cdn.example", "other.example"]))
    assert await echoes(kept)
    with pytest.raises(ConnectionError):
        await echoes(lost)
    assert await refuses(guest, ALLOWED, "allowed.example", internet)
    added = await tls(guest, OTHER, "other.example", internet.authority)
    await egress.apply(Network(deny_out=[OTHER]))
    assert await echoes(kept)  # the internet is open now
    with pytest.raises(ConnectionError):
        await echoes(added)
    await egress.apply(Network(internet=False))
    with pytest.raises(ConnectionError):
        await echoes(kept)


async def test_while_nobody_enforces_names_are_closed(
    internet: Internet, slots: Slots, slot: Slot, guest: Guest, tag: str, tmp_path: Path
) -> None:
    async with slots.enforcing(slot, RULES):
        open = await tls(guest, ALLOWED, "allowed.example", internet.authority)
    with pytest.raises(ConnectionError):
        await echoes(open)
    for port in (80, 443):
        with pytest.raises(ConnectionRefusedError):
            await guest.connect(ALLOWED, port)
    with await guest.udp_socket() as client:
        client.connect((RESOLVER, 53))
        client.send(b"question")
        with pytest.raises(ConnectionRefusedError):
            await net.receive(client)
    again = pool(tag, resolv_conf=tmp_path / "resolv.conf")
    async with again.enforcing(again.adopt(slot.index), RULES):
        connection = await tls(guest, ALLOWED, "allowed.example", internet.authority)
        assert await echoes(connection)


async def test_connections_are_bounded(
    internet: Internet, egress: Enforcer, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "CONNECTIONS", 3)
    idle = [await guest.connect(ALLOWED, 443) for _ in range(3)]
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await echoes(await guest.connect(ALLOWED, 443))
    idle.pop()[1].transport.abort()
    connection = await retried(lambda: tls(guest, ALLOWED, "allowed.example", internet.authority))
    assert await echoes(connection)


async def retried(work: Callable[[], Awaitable[Connection]]) -> Connection:
    """The end of the connection before has to be heard of."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            return await work()
        await asyncio.sleep(0.05)
    raise AssertionError


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_whoever_says_nothing_is_put_out(
    internet: Internet, slots: Slots, slot: Slot, guest: Guest, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(proxy, "FIRST_WORDS", 0.2)
    async with slots.enforcing(slot, RULES):
        for port in (80, 443):
            reader, writer = await guest.connect(ALLOWED, port)
            writer.write(first)
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            writer.close()


async def test_nothing_is_left_of_a_slot_that_had_names(
    internet: Internet, slots: Slots, slot: Slot, guest: Guest
) -> None:
    async with slots.enforcing(slot, RULES):
        await tls(guest, ALLOWED, "allowed.example", internet.authority)
    tasks = [
        task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(("pass", "answer"))
    ]
    assert tasks == []
    assert await net.inside(slot.netns, listening) == []
    await slots.release(slot)
    assert not slot.netns.exists()


def listening() -> list[str]:
    """Sockets of the namespace that wait for somebody."""
    found = list[str]()
    for table, state in (("tcp", "0A"), ("udp", "07")):
        lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
        found += [line for line in lines if line.split()[3] == state]
    return found
