"""The examples for reverse proxies, run as they are but for ports and files, in front of a real listener."""

import asyncio
import os
import re
import shutil
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from unit.edge.loopback import Server, ended

from support.certificates import SelfSigned, self_signed
from wrenn_server.controlplane.config import Networks
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Answer, Peer, Target, Upstream
from wrenn_server.up.demo import free_port
from wrenn_server.wire.head import Head, parse_response
from wrenn_server.wire.stream import Stream, connect_tcp

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
HOST = b"3000-sbaaaaaaaaaaaaaaaaaaaa.sandboxes.example.com"
PROXIES = ["caddy", "haproxy"]


@pytest.fixture
def pair(tmp_path: Path) -> SelfSigned:
    made = self_signed(tmp_path, "sandboxes.example.com", "*.sandboxes.example.com")
    (tmp_path / "fullchain.pem").write_bytes(made.certificate.read_bytes())
    (tmp_path / "privkey.pem").write_bytes(made.key.read_bytes())
    (tmp_path / "haproxy.pem").write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    return made


def prepared(name: str, directory: Path, port: int, behind: str) -> tuple[list[str], list[str]]:
    """The commands that check the example and that run it, on a port of this test and in front of `behind`."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (apt-get install {name})")
    file = directory / {"caddy": "Caddyfile", "haproxy": "haproxy.cfg"}[name]
    text = (DEPLOY / name / file.name).read_text().replace("/etc/wrenn/", f"{directory}/")
    text = text.replace("127.0.0.1:8000", behind)
    if name == "caddy":
        text = text.replace(
            "\n{\n", "\n{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n", 1
        )
        text = re.sub(r"(?m)^sandboxes.*\{$", f"https://*.sandboxes.example.com:{port} {{", text)
        file.write_text(text)
        return (
            ["caddy", "validate", "--adapter", "caddyfile", "--config", str(file)],
            ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)],
        )
    text = text.replace("bind :80\n", f"bind 127.0.0.1:{free_port()}\n").replace(
        "bind :443", f"bind 127.0.0.1:{port}"
    )
    file.write_text(text)
    return ["haproxy", "-c", "-f", str(file)], ["haproxy", "-db", "-f", str(file)]


async def run(argv: list[str], directory: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *argv, env={"PATH": os.environ["PATH"], "HOME": str(directory)}, cwd=directory,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize("name", PROXIES)
async def test_the_example_is_valid(name: str, tmp_path: Path, pair: SelfSigned) -> None:
    check, _ = prepared(name, tmp_path, free_port(), "127.0.0.1:8000")
    process = await run(check, tmp_path)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"warning" not in output.lower().replace(b"caddy file input is not formatted", b""), (
        output.decode()
    )


@asynccontextmanager
async def proxied(name: str, directory: Path, behind: str) -> AsyncGenerator[int, None]:
    port = free_port()
    _, command = prepared(name, directory, port, behind)
    process = await run(command, directory)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    (await connect_tcp("127.0.0.1", port)).abort()
                    break
                except OSError:
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
        yield port
    finally:
        if process.returncode is None:
            process.kill()
        output, _ = await process.communicate()
        print(output.decode())  # shown when the test fails


class Behind:
    """The edge, with a sandbox's server behind it whose every byte the test decides."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.server = Server()

    async def route(self, head: Head, peer: Peer) -> Target:
        if head.path == "/health":
            return Answer(status=200, body=b"{}")
        self.heads.append(head)
        return Upstream(connect=self.server.dial, group="sb")


@pytest.fixture
async def behind() -> AsyncIterator[tuple[Behind, Listener]]:
    made = Behind()
    listening = await asyncio.get_running_loop().create_server(made.server.take, "127.0.0.1", 0)
    made.server.port = listening.sockets[0].getsockname()[1]
    proxies = Networks("127.0.0.1")
    async with (
        listening,
        Listener("127.0.0.1:0", made.route, trusted=lambda peer: peer.host in proxies) as listener,
    ):
        yield made, listener
        await ended(made.server)


async def connect(port: int, pair: SelfSigned) -> Stream:
    context = ssl.create_default_context(cafile=str(pair.certificate))
    context.set_alpn_protocols(["http/1.1"])
    return await connect_tcp("127.0.0.1", port, ssl=context, server_hostname=HOST.decode())


async def head_of(stream: Stream) -> bytes:
    async with asyncio.timeout(30):
        head = await stream.read_head()
    assert head is not None
    return head


@pytest.mark.parametrize("name", PROXIES)
async def test_what_comes_through(
    name: str, tmp_path: Path, pair: SelfSigned, behind: tuple[Behind, Listener]
) -> None:
    made, listener = behind
    async with proxied(name, tmp_path, listener.address) as port:
        async with await connect(port, pair) as client:
            client.write(
                b"GET /a%%2Fb?c HTTP/1.1\r\nHost: %b\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n"
                b"X-Request-Id: mine\r\n\r\n" % HOST
            )
            upstream = await made.server.accept()
            await head_of(upstream)
            head = made.heads[-1]
            assert (head.target, head.fields["host"]) == ("/a%2Fb?c", HOST.decode())
            assert head.fields["x-forwarded-for"] == "127.0.0.1"
            assert head.fields["x-forwarded-proto"] == "https"
            assert head.fields["x-forwarded-host"] == HOST.decode()
            assert head.fields["x-request-id"].startswith("req_")
            upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert parse_response(await head_of(client)).status == 200

        # WebSocket
        async with await connect(port, pair) as client:
            client.write(
                b"GET /ws HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" % HOST
            )
            upstream = await made.server.accept()
            await head_of(upstream)
            upstream.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            )
            assert parse_response(await head_of(client)).status == 101
            upstream.write(b"\x81\x05hello")
            async with asyncio.timeout(30):
                assert await client.read() == b"\x81\x05hello"

        # A client that leaves is seen by the server, although that says nothing.
        client = await connect(port, pair)
        client.write(b"GET /slow HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST)
        upstream = await made.server.accept()
        await head_of(upstream)
        client.abort()
        async with asyncio.timeout(30):
            with suppress(ConnectionError):
                assert await upstream.read() == b""


@pytest.mark.parametrize("name", PROXIES)
async def test_a_death_within_a_response_is_no_end(
    name: str, tmp_path: Path, pair: SelfSigned, behind: tuple[Behind, Listener]
) -> None:
    made, listener = behind
    async with proxied(name, tmp_path, listener.address) as port, await connect(port, pair) as client:
        if name == "caddy" and await caddy_version() < (2, 8):
            pytest.skip("Caddy before 2.8 ends such a response as if it were whole; deploy/README.md says so")
        client.write(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST)
        upstream = await made.server.accept()
        await head_of(upstream)
        upstream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert parse_response(await head_of(client)).status == 200
        data = b""
        async with asyncio.timeout(30):
            while b"hello" not in data:
                data += await client.read()  # what streams arrives as it comes
            listener.abort("sb")
            with suppress(OSError):
                while piece := await client.read():
                    data += piece
        assert b"0\r\n\r\n" not in data


async def caddy_version() -> tuple[int, int]:
    process = await asyncio.create_subprocess_exec("caddy", "version", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    found = re.search(rb"(\d+)\.(\d+)", output)
    assert found, output
    return int(found[1]), int(found[2])
