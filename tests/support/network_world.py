"""A host, an internet and guests, all of them network namespaces, so that nothing leaves the machine and no other
test is met.

The test's main thread moves into the host's namespace; threads and programs that start from there live in it too.
The internet owns the addresses that a sandbox may reach and those that it must not, so that a packet that gets out
is seen. A guest is a real TCP stack behind the TAP of a slot.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from ssl import SSLContext
from typing import TypeVar

from wrenn_server.hostagent.network.base import GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC, TAP, Slot
from wrenn_server.hostagent.network.egress.resolver import RESOLV_CONF
from wrenn_server.hostagent.network.slots import Slots
from wrenn_server.linux import netns
from wrenn_server.linux.rtnetlink import Rtnetlink

T = TypeVar("T")
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NETWORK = IPv4Network("10.214.0.0/16")
"""The agent's own range."""
HOST_ADDRESS = "9.9.9.1"
INTERNET_ADDRESS = "1.1.1.1"
ELSEWHERE = ["1.1.2.2", "8.8.8.8", "200.1.1.1"]
"""More of the internet's addresses."""
FORBIDDEN = [
    "169.254.169.254",
    "10.1.2.3",
    "172.17.0.1",
    "192.168.1.1",
    "100.100.100.200",
    "198.18.0.7",
    "224.0.0.251",
]
PORT = 9000
VNET_HEADER = bytes(10)
"""Before each frame, because the TAP is opened with IFF_VNET_HDR: no offloads."""
ETH_P_ALL = 3


@dataclass(slots=True)
class World:
    internet: int
    """File descriptor of its namespace."""

    async def in_internet(self, make: Callable[[], T]) -> T:
        return await inside(self.internet, make)

    @asynccontextmanager
    async def tcp_server(
        self, address: str, port: int, serve: Serve, *, ssl: SSLContext | None = None
    ) -> AsyncGenerator[None]:
        """Leaving ends its connections too: a guest that is gone cannot."""
        serving = set[asyncio.Task[None]]()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(serve(reader, writer))
            serving.add(task)
            try:
                await asyncio.wait([task])
            finally:
                writer.transport.abort()
                serving.discard(task)

        listening = await self.in_internet(lambda: socket.create_server((address, port)))
        async with await asyncio.start_server(connected, sock=listening, ssl=ssl) as server:
            yield
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


def pool(tag: str, *, limit: int = 8, ready: int = 2, resolv_conf: Path = RESOLV_CONF) -> Slots:
    return Slots(tag=tag, network=NETWORK, uid_base=40000, limit=limit, ready=ready, resolv_conf=resolv_conf)


@contextmanager
def world() -> Generator[World]:
    with ExitStack() as stack:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, home)
        stack.callback(netns.enter, home)
        internet = netns.new()
        stack.callback(os.close, internet)
        _up("lo")
        for address in [*FORBIDDEN[:-1], INTERNET_ADDRESS, *ELSEWHERE]:
            _address("lo", f"{address}/32")
        host = netns.new()
        stack.callback(os.close, host)
        with Rtnetlink() as netlink:
            netlink.add_veth("up0", "wan", internet)
        _up("lo")
        _address("up0", f"{HOST_ADDRESS}/24")
        _up("up0")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        netns.enter(internet)
        _address("wan", "9.9.9.2/24")
        _up("wan")
        netns.enter(host)
        with Rtnetlink() as netlink:
            netlink.set_default_route("9.9.9.2")
        yield World(internet)


@dataclass(slots=True)
class Guest:
    """Ethernet and TCP behind the TAP of a slot."""

    namespace: int
    wire: int
    """The slot's TAP."""
    lose: int = 0
    """So many frames towards the guest are dropped."""
    syns: list[int] = field(default_factory=list[int])
    """Source port of each SYN that came, lost ones included."""
    connections: list[Connection] = field(default_factory=list[Connection])

    async def tcp_server(self, port: int) -> asyncio.Server:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(writer.get_extra_info("peername")[0].encode())
            writer.close()

        listening = await inside(self.namespace, lambda: socket.create_server(("0.0.0.0", port)))
        return await asyncio.start_server(answer, sock=listening)

    async def udp_socket(self) -> socket.socket:
        return await inside(self.namespace, _udp)

    async def tcp_socket(self, address: str, port: int) -> socket.socket:
        """Connected, non-blocking.

        :raises OSError: e.g. EHOSTUNREACH for what the rules refuse"""
        made = await inside(self.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        except BaseException:
            made.close()
            raise
        return made

    async def connect(
        self, address: str, port: int, *, ssl: SSLContext | None = None, server_hostname: str | None = None
    ) -> Connection:
        """Reset when the guest ends, at the latest.

        :raises OSError: SSLError is one"""
        made = await self.tcp_socket(address, port)
        connection = await asyncio.open_connection(sock=made, ssl=ssl, server_hostname=server_hostname)
        self.connections.append(connection)
        return connection

    async def send(self, frame: bytes) -> None:
        """Raw bytes out of the guest's network card, whatever its own kernel thinks of them."""
        os.write(self.wire, VNET_HEADER + frame)


@asynccontextmanager
async def guest(slot: Slot) -> AsyncGenerator[Guest]:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:

        def attach() -> int:
            netns.enter(slot.netns)
            return netns.open_tap(TAP)

        def boot() -> tuple[int, int]:
            namespace = netns.new()
            card = netns.open_tap("eth0")
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
            with Rtnetlink() as netlink:
                netlink.set_link("eth0", mac=GUEST_MAC)
                _address("eth0", f"{GUEST_ADDRESS}/30")
                netlink.set_link("eth0", up=True)
                netlink.set_default_route(GATEWAY_ADDRESS)
            _up("lo")
            return namespace, card

        wire = await netns.in_own_thread(attach)
        stack.callback(os.close, wire)
        namespace, card = await netns.in_own_thread(boot)
        stack.callback(os.close, namespace)
        stack.callback(os.close, card)
        made = Guest(namespace, wire)

        def inbound() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = os.read(wire, 65536)
                    packet = frame[len(VNET_HEADER) + 14 :]
                    if packet[9:10] == b"\x06" and packet[33] & 0x12 == 0x02:
                        made.syns.append(struct.unpack_from("!H", packet, 20)[0])
                    if made.lose:
                        made.lose -= 1
                    else:
                        os.write(card, frame)

        def outbound() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(wire, os.read(card, 65536))

        for descriptor, pump in ((wire, inbound), (card, outbound)):
            loop.add_reader(descriptor, pump)
            stack.callback(loop.remove_reader, descriptor)
        yield made
        for _, writer in made.connections:
            writer.transport.abort()
        await asyncio.sleep(0)  # for the transports to close


async def inside(namespace: int | Path, make: Callable[[], T]) -> T:
    def work() -> T:
        netns.enter(namespace)
        return make()

    return await netns.in_own_thread(work)


async def receive(opened: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """A datagram and who sent it, on any loop."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(opened, ready.set)
    try:
        async with asyncio.timeout(10):
            await ready.wait()
    finally:
        loop.remove_reader(opened)
    return opened.recvfrom(65536)


def sniffer(device: str) -> socket.socket:
    """Sees every packet that comes in by a device of the calling thread's namespace."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
    made.bind((device, ETH_P_ALL))
    return made


def udp_server(address: str = "0.0.0.0") -> socket.socket:
    made = _udp()
    made.bind((address, PORT))
    return made


def _udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return made


def _up(name: str) -> None:
    with Rtnetlink() as netlink:
        netlink.set_link(name, up=True)


def _address(name: str, address: str) -> None:
    with Rtnetlink() as netlink:
        netlink.add_address(socket.if_nametoindex(name), address)


def udp_packet(source: str, destination: str, payload: bytes, *, port: int = PORT) -> bytes:
    """IPv4, with a header checksum; UDP's own is left out, as its RFC allows."""
    udp = struct.pack("!HHHH", 4444, port, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0),
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", total) + head[12:] + udp


def ethernet(source: str, destination: str, kind: int, payload: bytes, *, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    return _mac(destination) + _mac(source) + tag + struct.pack("!H", kind) + payload


def arp(mac: str, address: str, *, asks_for: str) -> bytes:
    return (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        + _mac(mac)
        + socket.inet_aton(address)
        + bytes(6)
        + socket.inet_aton(asks_for)
    )


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
