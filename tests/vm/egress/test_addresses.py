"""Rules of single sandboxes on the real kernel: what they let through, and how they change under traffic."""

import asyncio
import contextlib
import errno
import itertools
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from support import network_world as net
from support.network_world import ELSEWHERE, FORBIDDEN, INTERNET_ADDRESS, PORT, Guest, World, pool
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.network.slots import Slots, clean_up
from wrenn_server.linux.nft import Nft
from wrenn_server.model.errors import Internal, InvalidRequest
from wrenn_server.wire.agent import Network

OTHER, THIRD, HIGH = ELSEWHERE
CLOSED = Network(internet=False)
CHANGES = 100


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def internet(world: World) -> AsyncIterator[World]:
    """Every address of it echoes on one port."""
    async with contextlib.AsyncExitStack() as stack:
        for address in (INTERNET_ADDRESS, *ELSEWHERE, *FORBIDDEN[:-1]):
            await stack.enter_async_context(world.tcp_server(address, PORT, echo))
        yield world


async def reaches(guest: Guest, address: str, port: int = PORT) -> bool:
    try:
        async with asyncio.timeout(10):
            _, writer = await guest.connect(address, port)
    except OSError as error:
        if error.errno != errno.EHOSTUNREACH:  # a refusal is said at once, not by silence
            raise
        return False
    writer.close()
    return True


async def reached(guest: Guest) -> set[str]:
    return {address for address in (INTERNET_ADDRESS, *ELSEWHERE) if await reaches(guest, address)}


@pytest.mark.parametrize(
    ("network", "allowed"),
    [
        (Network(), {INTERNET_ADDRESS, OTHER, THIRD, HIGH}),
        (Network(internet=False), set[str]()),
        (Network(deny_out=["0.0.0.0/0"]), set[str]()),
        (Network(deny_out=["0.0.0.0/1", "128.0.0.0/1"]), set[str]()),
        (Network(internet=False, allow_out=[OTHER]), {OTHER}),
        (Network(internet=False, allow_out=["1.1.0.0/16", THIRD]), {INTERNET_ADDRESS, OTHER, THIRD}),
        (Network(internet=False, allow_out=["0.0.0.0/0"]), {INTERNET_ADDRESS, OTHER, THIRD, HIGH}),
        (Network(deny_out=["1.1.0.0/16"]), {THIRD, HIGH}),
        (Network(deny_out=["1.1.0.0/16"], allow_out=[OTHER]), {OTHER, THIRD, HIGH}),
        (Network(deny_out=["128.0.0.0/1"]), {INTERNET_ADDRESS, OTHER, THIRD}),  # ends at 255.255.255.255
        (Network(deny_out=["1.1.1.1/32", "1.1.1.0/24", "200.1.1.1/31"]), {OTHER, THIRD}),
    ],
    ids=repr,
)
async def test_addresses_and_ranges(
    internet: World, slots: Slots, slot: Slot, guest: Guest, network: Network, allowed: set[str]
) -> None:
    async with slots.enforcing(slot, network):
        assert await reached(guest) == allowed


@pytest.mark.parametrize("allow", [["0.0.0.0/0"], ["10.0.0.0/8", "169.254.0.0/16", *FORBIDDEN]])
async def test_no_rule_opens_what_the_platform_blocks(
    internet: World, slots: Slots, slot: Slot, guest: Guest, allow: list[str]
) -> None:
    async with slots.enforcing(slot, Network(internet=False, allow_out=allow)):
        for address in FORBIDDEN[:-1]:
            assert not await reaches(guest, address)
        for port in (25, 465, 587):
            assert not await reaches(guest, INTERNET_ADDRESS, port)


async def test_a_connection_that_is_denied_later_is_cut_and_others_go_on(
    internet: World, slots: Slots, slot: Slot, guest: Guest
) -> None:
    async with slots.enforcing(slot, Network()) as egress:
        kept, lost, quiet = [await guest.connect(address, PORT) for address in (THIRD, OTHER, OTHER)]
        for connection in (kept, lost, quiet):
            assert await says(connection, b"before") == b"before"
        await egress.apply(Network(deny_out=[OTHER]))
        assert await says(kept, b"after") == b"after"
        with pytest.raises(ConnectionResetError):
            await says(lost, b"after")
        await egress.apply(CLOSED)
        with pytest.raises(ConnectionResetError):
            await says(kept, b"closed")
        await egress.apply(Network())
        assert await reaches(guest, OTHER)
        for _, writer in (kept, lost, quiet):
            writer.close()


async def test_what_is_on_its_way_in_stops_too(
    internet: World, slots: Slots, slot: Slot, guest: Guest
) -> None:
    """A sender needs no answer over UDP."""
    server = await internet.in_internet(lambda: net.udp_server(OTHER))
    client = await guest.udp_socket()
    with server, client:
        async with slots.enforcing(slot, Network()) as egress:
            client.sendto(b"subscribe", (OTHER, PORT))
            _, sender = await net.receive(server)
            server.sendto(b"news", sender)
            assert (await net.receive(client))[0] == b"news"
            await egress.apply(CLOSED)
            server.sendto(b"more news", sender)
            # Whatever was let through is there by the time the answer to a later packet is.
            assert not await reaches(guest, OTHER)
            with pytest.raises(BlockingIOError):
                client.recv(100)


async def test_a_hundred_changes_under_traffic_let_nothing_forbidden_through(
    internet: World, slots: Slots, slot: Slot, guest: Guest
) -> None:
    """OTHER is forbidden before and after each change, in turns by each kind of rule; INTERNET_ADDRESS is always
    allowed, and THIRD is sometimes. One flow to each, established while all was open, never stops sending."""
    rules = itertools.cycle(
        [
            Network(internet=False, allow_out=[INTERNET_ADDRESS]),
            Network(deny_out=[OTHER]),
            Network(internet=False, allow_out=["1.1.1.0/24", THIRD]),
            Network(deny_out=["1.1.0.0/16"], allow_out=[INTERNET_ADDRESS]),
            Network(internet=False, allow_out=[INTERNET_ADDRESS, "example.org"]),
            Network(deny_out=[*(f"1.1.2.{n}" for n in range(256)), "128.0.0.0/1"]),
        ]
    )
    addresses = (INTERNET_ADDRESS, OTHER, THIRD)
    servers = [await internet.in_internet(lambda a=address: net.udp_server(a)) for address in addresses]
    allowed, forbidden, _ = servers
    client = await guest.udp_socket()
    outside = await internet.in_internet(lambda: net.sniffer("wan"))
    with client, outside, contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        async with slots.enforcing(slot, Network()) as egress:
            for address in addresses:
                client.sendto(b"open", (address, PORT))
            for server in servers:
                _, sender = await net.receive(server)
                server.sendto(b"established", sender)
                await net.receive(client)
            await egress.apply(next(rules))
            drain(outside)
            sending = asyncio.create_task(flood(client, addresses))
            connection = await guest.connect(INTERNET_ADDRESS, PORT)
            for change in range(CHANGES):
                drain(allowed)
                await egress.apply(next(rules))
                assert drain(allowed)  # it happened under traffic
                assert await says(connection, b"%d" % change) == b"%d" % change
            sending.cancel()
            await asyncio.wait([sending])
            connection[1].close()
        assert drain(forbidden) == 0
        assert not [packet for packet in packets(outside) if destination(packet) == OTHER]


async def flood(client: socket.socket, addresses: tuple[str, ...]) -> None:
    for number in itertools.count():
        for address in addresses:
            with contextlib.suppress(OSError):  # refused: the error of the one before, or the queue is full
                client.sendto(b"%d" % number, (address, PORT))
        await asyncio.sleep(0)


async def test_entering_again_after_the_agent_was_away_opens_nothing(
    internet: World, slots: Slots, slot: Slot, guest: Guest, tag: str
) -> None:
    """The rules outlive the agent; the next one replaces them as a whole, and no connection notices."""
    network = Network(internet=False, allow_out=[INTERNET_ADDRESS])
    async with slots.enforcing(slot, network):
        connection = await guest.connect(INTERNET_ADDRESS, PORT)
        assert await says(connection, b"first agent") == b"first agent"
    assert await reached(guest) == {INTERNET_ADDRESS}

    server = await internet.in_internet(lambda: net.udp_server(OTHER))
    client = await guest.udp_socket()
    with server, client:
        sending = asyncio.create_task(flood(client, (OTHER,)))
        for _ in range(10):
            again = pool(tag)
            adopted = again.adopt(slot.index)
            async with again.enforcing(adopted, network):
                assert await says(connection, b"next agent") == b"next agent"
        sending.cancel()
        await asyncio.wait([sending])
        assert drain(server) == 0
    connection[1].close()


async def test_a_refused_change_leaves_the_rules_as_they_are(
    internet: World, slots: Slots, slot: Slot, guest: Guest
) -> None:
    async with slots.enforcing(slot, Network(deny_out=[OTHER])) as egress:
        with pytest.raises(InvalidRequest):
            await egress.apply(Network(allow_out=["1.2.3.4/99"]))
        assert await reached(guest) == {INTERNET_ADDRESS, THIRD, HIGH}
        await Nft().apply("delete table ip wrenn\n", slot.netns)
        with pytest.raises(Internal, match=slot.name):
            await egress.apply(CLOSED)


async def test_a_slot_starts_as_open_as_new_after_a_closed_one(
    internet: World, slots: Slots, slot: Slot, tag: str
) -> None:
    async with slots.enforcing(slot, CLOSED):
        pass
    await slots.release(slot)
    for _ in range(9):
        slot = await slots.acquire()
        async with slots.enforcing(slot, Network()), net.guest(slot) as guest:
            assert await reaches(guest, OTHER)
        await slots.release(slot)
    await clean_up(tag)


async def says(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
    reader, writer = connection
    writer.write(data)
    async with asyncio.timeout(10):
        return await reader.readexactly(len(data))


def packets(opened: socket.socket) -> list[bytes]:
    found = list[bytes]()
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(opened.recv(65536))
    return found


def drain(opened: socket.socket) -> int:
    return len(packets(opened))


def destination(frame: bytes) -> str:
    """Of an IPv4 packet in an Ethernet frame."""
    kind, address = struct.unpack_from("!H16x4s", frame.ljust(34, b"\0"), 12)
    return socket.inet_ntoa(address) if kind == 0x0800 else ""
