"""What `bench.edge` measures, each a process of its own: the edge, an agent's end of the tunnel, and a server behind.

`python -m bench.edge_programs ROLE PORT…` prints the port that it listens on and ends with its standard input.
"""

import asyncio
import base64
import hashlib
import re
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import uvloop

from wrenn_server.controlplane.app import observer
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.metrics import Metrics
from wrenn_server.controlplane.seen import Seen
from wrenn_server.controlplane.services.routes import Location
from wrenn_server.controlplane.traffic import Traffic
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Answer, Peer, Target, Tunnel
from wrenn_server.model.address import Address
from wrenn_server.model.ids import SandboxId
from wrenn_server.model.sandbox import State
from wrenn_server.wire.head import Head
from wrenn_server.wire.http1 import connect_tunnel
from wrenn_server.wire.stream import Stream, connect_tcp

SANDBOX = "sb" + "0" * 20
Connect = Callable[[int], Awaitable[Stream]]


class Routes:
    """Knows one sandbox, as the control plane's own does after the first request."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._location = Location(
            host_id="host_0",
            address=Address("127.0.0.1", 1),
            state=State.RUNNING,
            generation=1,
            team_id="team_0",
            access_token="",
        )

    async def locate(self, sandbox_id: SandboxId) -> Location:
        return self._location

    async def open_tunnel(self, sandbox_id: SandboxId, port: int) -> Stream:
        return await self._connect(port)


async def serve_edge(connect: Connect) -> None:
    """The control plane's listener with all that it does for a request to a sandbox, but the database."""
    known = SimpleNamespace(routes=Routes(connect), db=None, metrics=Metrics(), seen=Seen())
    cp = cast("ControlPlane", known)
    async with Listener("127.0.0.1:0", Traffic(cp, "/nowhere").choose, observe=observer(cp)) as listener:
        await until_told(listener.address)


async def serve_tunnel() -> None:
    """As a host agent does it, without checking who asks."""

    async def route(head: Head, peer: Peer) -> Target:
        if head.method != "CONNECT":
            return Answer(status=404)
        port = int(head.target.rpartition(":")[2])
        return Tunnel(connect=lambda: connect_tcp("127.0.0.1", port))

    async with Listener("127.0.0.1:0", route, trusted=True) as listener:
        await until_told(listener.address)


class Upstream(asyncio.Protocol):
    """Takes any body, and answers `GET` with an upgrade to WebSocket, on which it sends back every byte it gets."""

    def __init__(self) -> None:
        self._head = b""
        self._left = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._left >= 0:
            self._take(len(data))
            return
        head, blank, rest = (self._head + data).partition(b"\r\n\r\n")
        if not blank:
            self._head = head
            return
        self._head = b""
        if key := re.search(rb"(?i)sec-websocket-key: *(\S+)", head):
            accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324 - RFC 6455
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
            self._transport.set_protocol(_Echo(self._transport))
            return
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        self._left = int(length[1]) if length else 0
        self._take(len(rest))

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self._left = -1
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class _Echo(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def serve_upstream() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    await until_told(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def until_told(address: str) -> None:
    print(address.rpartition(":")[2], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    role, *ports = sys.argv[1:]
    match role:
        case "edge":
            work = serve_edge(lambda port: connect_tcp("127.0.0.1", port))
        case "edge-tunnel":
            agent = f"127.0.0.1:{ports[0]}"
            work = serve_edge(lambda port: connect_tunnel(agent, f"{SANDBOX}:{port}"))
        case "tunnel":
            work = serve_tunnel()
        case _:
            work = serve_upstream()
    uvloop.run(work)


if __name__ == "__main__":
    main()
