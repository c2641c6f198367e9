"""Heads that a seed makes up, against the parser and against a running listener. What was found became a test elsewhere.

`WRENN_FUZZ_HEADS=1000000 pytest tests/unit/edge/test_generated.py` for more than the few of every run; `WRENN_FUZZ_SEED`
to see the same again.
"""

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import h11
import httptools
import pytest
import uvloop
from unit.edge.generated import Case, Generator

from wrenn_server.edge.head import admitted
from wrenn_server.edge.target import Peer
from wrenn_server.wire.head import BadHead, Head, parse_request, request_framing
from wrenn_server.wire.stream import Stream, connect_tcp

HEADS = int(os.environ.get("WRENN_FUZZ_HEADS", "30000"))
SEED = int(os.environ.get("WRENN_FUZZ_SEED", random.randrange(2**32)))
AT_ONCE = 400
PROBE_LIMIT = 10.0
"""Seconds in which a right request is answered, whatever else goes on; a machine full of tests is slow."""


def accepted(head: bytes) -> Head | None:
    try:
        parsed = parse_request(head)
        request_framing(parsed)
        return admitted(parsed, Peer("192.0.2.1"), trusted=False)
    except BadHead:
        return None


class Parsed:
    """A head as httptools, Node's and uvicorn's parser, sees it."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.headers: list[tuple[str, str]] = []
        self.complete = False
        parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(httptools.HttpParserUpgrade):
            parser.feed_data(data)
        self.method = parser.get_method().decode()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


KNOWN = (
    "Invalid method encountered",
    "Expected space after method",
    "Request has invalid `Transfer-Encoding`",
)
"""httptools has a list of methods, and no blanks after `chunked`; the edge passes on neither as it came."""


def test_what_is_accepted_means_the_same_to_others() -> None:
    generator = Generator(SEED)
    count = 0
    for _ in range(HEADS):
        data, blank, _ = generator.head().partition(b"\r\n\r\n")
        data += blank
        if accepted(data) is None:
            continue
        count += 1
        ours = parse_request(data)
        evidence = f"seed {SEED}: {data!r}"
        method, _, version = data.split(b" ", 2)
        data = b"%b %b %b" % (
            method,
            ours.target.encode(),
            version,
        )  # they refuse bytes that the edge escapes
        try:
            other = Parsed(data)
        except httptools.HttpParserError as error:
            if str(error) not in KNOWN:
                pytest.fail(f"{evidence}: httptools says {error}")
        else:
            assert other.complete, evidence
            seen = (other.method, other.target.decode("latin-1"), tuple(other.headers))
            assert seen == (ours.method, ours.target, ours.headers), evidence
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
        connection.receive_data(data)
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            pytest.fail(f"{evidence}: h11 says {error}")
        assert isinstance(event, h11.Request), evidence
        values = [value.decode("latin-1").lower() for _, value in event.headers]
        assert values == [value.lower() for _, value in ours.headers], evidence
    assert count > HEADS / 10


# Against a listener

PROGRAM = """
import asyncio, sys, uvloop
from wrenn_server.edge import route
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.sandbox import sandbox_upstream
from wrenn_server.edge.target import Answer, Limits, Upstream
from wrenn_server.wire.stream import connect_tcp

async def main():
    dial = lambda: connect_tcp("127.0.0.1", int(sys.argv[1]))
    api = Upstream(connect=dial, key=("api",))
    async def choose(head, peer):
        if head.path == "/answer":
            return Answer(status=200, body=b"fine")
        match route.route(head):
            case route.ToApi():
                return api
            case route.Refuse(answer):
                return answer
            case route.ToSandbox(id=sandbox_id, port=port):
                return sandbox_upstream(sandbox_id, 1, port, dial)
    limits = Limits(head=0.5, idle=0.5, silence=2)
    async with Listener("127.0.0.1:0", choose, limits=limits) as listener:
        print(listener.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

uvloop.run(main())
"""


class Upstream(asyncio.Protocol):
    """Behind the edge: everything that comes out of it must be one right request after the other."""

    findings: list[str]
    count = 0

    def __init__(self, findings: list[str]) -> None:
        self.findings = findings
        self._received = b""
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._write = self._transport.write

    def data_received(self, data: bytes) -> None:
        self._received = (self._received + data)[-4096:]
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._write(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
        except httptools.HttpParserError as error:
            if str(error) not in KNOWN[:2]:
                self.findings.append(f"{error}: {self._received!r}")
            self._transport.close()

    def on_message_complete(self) -> None:
        Upstream.count += 1
        if self._parser.get_method() == b"HEAD":
            self._write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        else:
            self._write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@asynccontextmanager
async def edge(port: int) -> AsyncGenerator[tuple[int, asyncio.subprocess.Process]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield int((await process.stdout.readline()).decode().rpartition(":")[2]), process
    finally:
        process.stdin.close()
        await process.wait()


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


async def attack(port: int, case: Case, statuses: Counter[bytes]) -> None:
    client = await connect_tcp("127.0.0.1", port)
    async with client:
        for piece in case.pieces:
            client.write(piece)
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            while data := await client.read():
                if data.startswith(b"HTTP/1.1 "):
                    statuses[data[9:12]] += 1


async def probe(port: int) -> float:
    """Seconds that a right request of a new connection takes."""
    began = time.monotonic()
    client: Stream = await connect_tcp("127.0.0.1", port)
    async with client, asyncio.timeout(60):
        client.write(b"GET /answer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := await client.read():
            data += piece
    assert data.startswith(b"HTTP/1.1 200 OK\r\n"), data
    assert data.endswith(b"fine")
    return time.monotonic() - began


@pytest.mark.timeout(max(300, HEADS / 100))
def test_generated_heads_neither_crash_nor_block_the_listener() -> None:
    uvloop.run(bombard())


async def bombard() -> None:
    generator = Generator(SEED)
    findings: list[str] = []
    statuses: Counter[bytes] = Counter()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(findings), "127.0.0.1", 0, backlog=1024)
    async with server, edge(server.sockets[0].getsockname()[1]) as (port, process):
        left = HEADS
        slowest = 0.0
        before = probes = 0

        async def attacker() -> None:
            nonlocal left
            while left > 0:
                case = generator.case()
                left -= case.heads
                await attack(port, case, statuses)

        async def prober() -> None:
            nonlocal slowest, before, probes
            while True:
                slowest = max(slowest, await probe(port))
                probes += 1
                if left < HEADS * 0.8 and not before:
                    before = memory(process.pid)
                await asyncio.sleep(0.2)

        probing = asyncio.create_task(prober())
        await asyncio.gather(*(attacker() for _ in range(AT_ONCE)))
        slowest = max(slowest, await probe(port))
        grown = memory(process.pid) - before
        if probing.done():
            await probing
        probing.cancel()
        await asyncio.wait([probing])
        assert process.returncode is None
    assert process.stderr is not None
    said = (await process.stderr.read()).decode()
    print(
        f"seed {SEED}: {dict(statuses)}, {Upstream.count} reached the upstream, {probes} probes, "
        f"slowest {slowest:.2f} s, {grown=}"
    )
    assert not findings, f"seed {SEED}: {findings[:5]}"
    assert not said, f"seed {SEED}: {said[:3000]}"
    assert process.returncode == 0
    assert probes
    assert slowest < PROBE_LIMIT
    assert grown < 32 << 20
    assert statuses[b"200"]
    assert statuses[b"400"]
    assert Upstream.count > HEADS / 10
