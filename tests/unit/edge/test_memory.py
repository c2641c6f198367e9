"""The edge's memory does not grow with what passes through it: a process of its own, measured by the kernel."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from unit.edge.loopback import Server, World, head_of

from wrenn_server.wire.http1 import Connection
from wrenn_server.wire.stream import Stream, connect_tcp

MIB = 1 << 20
SIZE = 1024 * MIB
PIECE = b"\xa5" * 65536
PROGRAM = """
import asyncio, sys, uvloop
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Tunnel, Upstream
from wrenn_server.wire.stream import connect_tcp

async def main():
    dial = lambda: connect_tcp("127.0.0.1", int(sys.argv[1]))
    async def route(head, peer):
        return Tunnel(connect=dial) if head.method == "CONNECT" else Upstream(connect=dial, key="k")
    async with Listener("127.0.0.1:0", route) as listener:
        print(listener.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

uvloop.run(main())
"""


@asynccontextmanager
async def edge(server: Server) -> AsyncGenerator[tuple[int, int]]:
    """Port and pid of a listener in front of the server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(server.port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        yield int(address.rpartition(":")[2]), process.pid
    finally:
        process.stdin.close()
        assert await process.wait() == 0


def peak(pid: int) -> int:
    """Bytes of resident memory at the highest."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


async def send(stream: Stream, size: int = SIZE) -> None:
    for _ in range(size // len(PIECE)):
        stream.write(PIECE)
        await stream.drain()


async def receive(stream: Stream, size: int = SIZE) -> None:
    left = size
    while left > 0:
        piece = await stream.read()
        assert piece
        left -= len(piece)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # the loop is that of the two ends; the edge has its own
@pytest.mark.timeout(600)
async def test_1_gib_each_way_in_constant_memory(world: World) -> None:
    server = await world.server()
    async with edge(server) as (port, pid):

        async def upload() -> AsyncIterator[bytes]:
            for _ in range(SIZE // len(PIECE)):
                yield PIECE

        async with Connection(await connect_tcp("127.0.0.1", port)) as client:
            requesting = asyncio.create_task(client.request("GET", "/small"))
            upstream = await server.accept()
            await head_of(upstream)
            upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await requesting
            before = peak(pid)

            requesting = asyncio.create_task(client.request("POST", "/chunked", body=upload()))
            await head_of(upstream)
            await receive(upstream)  # and its chunks' sizes
            upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            sending = asyncio.create_task(send(upstream))
            received = 0
            async for piece in (await requesting).aiter():
                received += len(piece)
            assert received == SIZE
            await sending
        tunnel = await connect_tcp("127.0.0.1", port)
        async with tunnel:
            tunnel.write(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
            inner = await server.accept()
            await head_of(tunnel)
            size = SIZE // 4
            await asyncio.gather(
                send(tunnel, size), receive(inner, size), send(inner, size), receive(tunnel, size)
            )
        grown = peak(pid) - before
    assert grown < 16 * MIB
