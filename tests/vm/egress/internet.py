"""Names, web servers and resolvers in the internet of `support.network_world`, and a guest's programs that use them."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support import network_world as net
from support.network_world import ELSEWHERE, HOST_ADDRESS, INTERNET_ADDRESS, Connection, Guest, World
from wrenn_server.wire.agent import Network

ALLOWED, OTHER, RESOLVER, CDN = INTERNET_ADDRESS, *ELSEWHERE
EVERYWHERE = (ALLOWED, OTHER, RESOLVER, CDN)
ZONES = {
    "allowed.example": ["A " + ALLOWED],
    "other.example": ["A " + OTHER],
    "neighbour.example": ["A " + ALLOWED],
    "a.cdn.example": ["A " + CDN],
    "b.cdn.example": ["A " + CDN],
    "alias.example": ["CNAME allowed.example."],
    "rebound.example": ["A 10.1.2.3", "A 169.254.169.254", "A 127.0.0.1", "A 0.0.0.0", "A 10.214.0.1"],
    "half.example": ["A 192.168.1.1", "A " + ALLOWED],
    "host.example": ["A " + HOST_ADDRESS],
    "many.example": [f"A 7.7.7.{number}" for number in range(120)],
    "empty.example": [],
}


RULES = Network(
    internet=False,
    allow_out=[
        "Allowed.example", "*.cdn.example", "alias.example", "rebound.example", "half.example", "host.example",
        "many.example", "empty.example", "missing.example",
    ],
)  # fmt: skip
POUR = 32


class Resolver:
    """Knows `zones`, over UDP and TCP; keeps what it was asked, and by whom."""

    def __init__(self) -> None:
        self.zones = dict(ZONES)
        self.asked: list[tuple[str, str]] = []
        """Sender and `name type`."""
        self.silent = False

    @asynccontextmanager
    async def serving(self, udp: socket.socket, tcp: socket.socket) -> AsyncGenerator[None]:
        resolver = self

        class Datagrams(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast("asyncio.DatagramTransport", transport)

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                if not resolver.silent:
                    self.transport.sendto(resolver.answer(data, addr[0], 1232), addr)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            question = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            answer = self.answer(question, writer.get_extra_info("peername")[0], 65535)
            writer.write(len(answer).to_bytes(2) + answer)
            writer.close()

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, sock=udp)
        async with await asyncio.start_server(connected, sock=tcp):
            yield
            transport.close()

    def answer(self, data: bytes, sender: str, room: int) -> bytes:
        query = dns.message.from_wire(data)
        [question] = query.question
        name, kind = question.name.to_text().rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((sender, f"{name} {kind}"))
        answer = dns.message.make_response(query, recursion_available=True)
        if name not in self.zones:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        while name is not None:
            name = self._records(answer, name, kind)
        return answer.to_wire(max_size=room, prefer_truncation=True)

    def _records(self, answer: dns.message.Message, name: str, kind: str) -> str | None:
        """Adds them; the name to go on with, after an alias."""
        for record in self.zones.get(name, []):
            found, text = record.split(" ", 1)
            if found in {kind, "CNAME"}:
                rrset = dns.rrset.from_text(f"{name}.", 1, "IN", found, text)
                known = answer.find_rrset(
                    answer.answer, rrset.name, dns.rdataclass.IN, rrset.rdtype, create=True
                )
                known.update(rrset)
            if found == "CNAME":
                return text.rstrip(".")
        return None


@dataclass
class Internet:
    world: World
    authority: ssl.SSLContext
    """Of clients: believes in our certificates."""
    host_resolver: Resolver
    """On the host's loopback, as systemd-resolved is."""
    public_resolver: Resolver
    """On RESOLVER."""
    requests: list[str] = field(default_factory=list[str])
    """`address method host target` of each request over HTTP, and `address TLS` of each over TLS."""

    poured: int = 0
    """MiB that the answer to `/pour` has sent, of POUR."""

    async def serve_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keeps connections, and answers every request on them."""
        address = writer.get_extra_info("sockname")[0]
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.rstrip().split("\r\n")
                fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                method, target, _ = first.split()
                self.requests.append(f"{address} {method} {fields['host']} {target}")
                if fields.get("upgrade") == "websocket" and fields["connection"] == "Upgrade":
                    writer.write(
                        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                    )
                    while data := await reader.read(1000):
                        writer.write(data)
                    return
                if target == "/pour":
                    await self._pour(writer)
                    return
                body = await _body(reader, fields)
                answer = f"{fields['host']} {body.decode()}"
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())
                if fields.get("connection") == "close":
                    writer.close()
                    return

    async def _pour(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for self.poured in range(1, POUR + 1):
            writer.write(bytes(1 << 20))
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def serve_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Echoes, or answers an HTTP request."""
        self.requests.append(f"{writer.get_extra_info('sockname')[0]} TLS")
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if data.startswith(b"GET "):
                    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nover TLS")
                    return
                writer.write(data)
                await writer.drain()


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if fields.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(fields.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


@asynccontextmanager
async def internet(world: World, directory: Path) -> AsyncGenerator[Internet]:
    """Every address has a web server on 80 and 443; `directory/resolv.conf` names the host's resolver."""
    server, client = certificates(directory)
    made = Internet(world, client, Resolver(), Resolver())
    (directory / "resolv.conf").write_text("# as of libc\nsearch example\nnameserver 127.0.0.1\n")
    async with AsyncExitStack() as stack:
        for address in EVERYWHERE:
            await stack.enter_async_context(world.tcp_server(address, 80, made.serve_http))
            await stack.enter_async_context(world.tcp_server(address, 443, made.serve_tls, ssl=server))
        udp, tcp = _resolver_sockets("127.0.0.1")
        await stack.enter_async_context(made.host_resolver.serving(udp, tcp))
        udp, tcp = await world.in_internet(lambda: _resolver_sockets(RESOLVER))
        await stack.enter_async_context(made.public_resolver.serving(udp, tcp))
        yield made


def _resolver_sockets(address: str) -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.bind((address, 53))
    return udp, socket.create_server((address, 53))


def certificates(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """One for all names: of the servers, and of clients that believe it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name) for name in (*ZONES, "*.cdn.example")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address(ALLOWED))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(
        cadata=certificate.public_bytes(serialization.Encoding.PEM).decode()
    )


# What runs in the guest.


async def ask(
    guest: Guest, name: str, kind: str = "A", *, tcp: bool = False, server: str = ALLOWED, edns: int = 0
) -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=edns)
    data = query.to_wire()
    async with asyncio.timeout(20):
        if tcp:
            reader, writer = await guest.connect(server, 53)
            writer.write(len(data).to_bytes(2) + data)
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            writer.close()
        else:
            with await guest.udp_socket() as client:
                client.connect((server, 53))
                client.send(data)
                answer, _ = await net.receive(client)
    response = dns.message.from_wire(answer)
    assert query.is_response(response)
    return response


def addresses(response: dns.message.Message) -> list[str]:
    return [line.split()[-1] for rrset in response.answer for line in rrset.to_text().splitlines()]


async def tls(
    guest: Guest, address: str, name: str | None, trust: ssl.SSLContext, port: int = 443
) -> Connection:
    """:param name: None: no server name
    :raises ssl.SSLError, OSError:"""
    trust.check_hostname = name is not None
    async with asyncio.timeout(20):
        return await guest.connect(address, port, ssl=trust, server_hostname=name or "")


async def http(guest: Guest, address: str, request: str, port: int = 80) -> str:
    """What comes back until the end."""
    reader, writer = await guest.connect(address, port)
    writer.write(request.replace("\n", "\r\n").encode())
    async with asyncio.timeout(20):
        return (await reader.read()).decode()
