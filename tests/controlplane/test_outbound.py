"""Messages go where they may, and nobody is led elsewhere."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from support.certificates import self_signed
from support.endpoint import endpoint
from wrenn_server.controlplane import outbound
from wrenn_server.controlplane.outbound import BadUrl, Message, is_public, parse

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.9", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1", "2002:7f00:1::1", "2002:a00:1::", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:808:808:0:0:80ff:fffe", "4000::1", "nonsense", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_what_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "https://", "//example.com", "example.com", "https://u:p@example.com",
        "https://u@example.com", "https://example.com:0/", "https://example.com:99999/", "https://exa mple.com/",
        "https://example.com/\r\nX: y", "https://bücher.example/", "https://example.com\\@evil", "https://[::1",
        "gopher://x", "https://example.com/" + "x" * 3000,
    ],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(BadUrl):
        parse(url)


def message(url: str) -> Message:
    return Message(url, [("X-Test", "1")], b"{}")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_own_hosts_are_refused(host: str) -> None:
    async with endpoint() as server:
        port = server.url.rpartition(":")[2]
        outcome = await outbound.send(message(f"http://{host}:{port}/"), private=False)
        assert outcome.status is None
        assert outcome.error is not None
        assert not server.received
    assert "public internet" in outcome.error or "cannot be reached" in outcome.error


async def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as server:
        port = int(server.url.rpartition(":")[2])

        async def resolve(*_: Any, **__: Any) -> Any:
            return [(socket.AF_INET, 0, 0, "", (ip, port)) for ip in ("8.8.8.8", "127.0.0.1")]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
        outcome = await outbound.send(message(f"http://rebind.example:{port}/"), private=False)
        assert outcome.error == "rebind.example does not lead to the public internet alone"


async def test_the_connection_goes_to_what_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads somewhere else at the second look gains nothing: there is none."""
    async with endpoint() as server:
        port = int(server.url.rpartition(":")[2])
        asked: list[str] = []
        loop = asyncio.get_running_loop()
        original = loop.getaddrinfo

        async def resolve(host: Any, *args: Any, **options: Any) -> Any:
            asked.append(str(host))
            if host == "rebind.example":
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
            return await original(host, *args, **options)

        monkeypatch.setattr(loop, "getaddrinfo", resolve, raising=False)
        outcome = await outbound.send(message(f"http://rebind.example:{port}/x?y=z"), private=True)
        assert (outcome.status, outcome.error) == (200, None)
        assert asked.count("rebind.example") == 1
        [got] = server.received
        assert (got.method, got.target, got.headers["host"]) == ("POST", "/x?y=z", f"rebind.example:{port}")


async def test_redirects_are_not_followed() -> None:
    async with endpoint() as server, endpoint() as other:
        server.answers.append((302, b"", f"Location: {other.url}/\r\n"))
        outcome = await outbound.send(message(server.url), private=True)
        assert outcome.error == "answered 302; redirects are not followed"
        assert len(server.received) == 1
        assert not other.received


async def test_an_answer_without_end_is_cut() -> None:
    async with endpoint() as server:
        server.answers += [(200, b"x" * 1_000_000), (500, b"\0\xff" + b"y" * 5000)]
        outcome = await outbound.send(message(server.url), private=True)
        assert (outcome.status, outcome.error, outcome.answer) == (200, None, "x" * outbound.ANSWER_MAX)
        outcome = await outbound.send(message(server.url), private=True)
        assert (outcome.status, outcome.error) == (500, "answered 500")
        assert "\0" not in outcome.answer


async def test_who_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TIMEOUT_SEC", 0.2)
    left = asyncio.Event()
    async with endpoint() as server:

        async def hang(_: object) -> None:
            await left.wait()

        server.before = hang
        outcome = await outbound.send(message(server.url), private=True)
        assert outcome.error == "no answer within 0 s"
        left.set()


async def test_who_speaks_something_else() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-x\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        outcome = await outbound.send(message(f"http://127.0.0.1:{port}"), private=True)
    assert outcome.error is not None
    assert outcome.error.startswith("no HTTP answer")
    outcome = await outbound.send(message(f"http://127.0.0.1:{port}"), private=True)
    assert outcome.error is not None
    assert outcome.error.startswith("cannot be reached")


async def test_certificates_are_looked_at(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    async with endpoint(certificate.server()) as server:
        outcome = await outbound.send(message(server.url), private=True)
        assert outcome.error is not None
        assert outcome.error.startswith("TLS: ")
        assert not server.received
        outcome = await outbound.send(message(server.url), private=True, context=certificate.client())
        assert outcome.error is None
