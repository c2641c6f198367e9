"""Requests to addresses that tenants choose. The name is resolved here, each of its addresses is judged, and the connection
goes to the one that was judged: a name that resolves to something else a moment later gains nothing. Redirects are not
followed, and time and size of answers are bounded."""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from wrenn_server.wire.body import BadBody
from wrenn_server.wire.head import BadHead
from wrenn_server.wire.http1 import Broken, Connection, Timeouts
from wrenn_server.wire.stream import connect_tcp

TIMEOUT_SEC = 10.0
"""For everything: name, connection, handshake, answer."""
ANSWER_MAX = 1024
URL_MAX = 2048
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
"""IETF protocol assignments, of which older Pythons count only two parts as not global."""
_AZURE = ipaddress.ip_address("168.63.129.16")
"""A public address that is Azure's metadata and DNS server inside of Azure."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Message:
    url: str = field(repr=False)
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message.

    :ivar status: None: nothing answered
    :ivar error: None: it was taken, with a status of 2xx
    :ivar answer: the answer's first `ANSWER_MAX` bytes
    """

    status: int | None
    error: str | None
    answer: str
    duration_ms: int


class BadUrl(ValueError):
    """It is no address that a message could go to; the message says why."""


def parse(url: str) -> SplitResult:
    """:raises BadUrl:"""
    if len(url) > URL_MAX or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadUrl("it is longer than 2048 characters, or has some that must be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadUrl(str(error)) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadUrl("expected https://host/path")
    if parts.username is not None or parts.password is not None:
        raise BadUrl("it has a user name or password")
    if port == 0:
        raise BadUrl("port 0 is none")
    return parts


def is_public(address: str) -> bool:
    """An address of the internet, and none that stands for another one that is not."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        teredo = ip.teredo
        inner = ip.ipv4_mapped or ip.sixtofour or (teredo[1] if teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GLOBAL_V6:
            return False
    elif ip in _PROTOCOLS or ip == _AZURE:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def send(message: Message, *, private: bool, context: ssl.SSLContext | None = None) -> Outcome:
    """Never raises for what the other end does.

    :param private: also to addresses that are not public
    :param context: for https; None: the certificates that the machine trusts
    """
    began = time.monotonic()
    status, error, answer = None, None, ""
    try:
        async with asyncio.timeout(TIMEOUT_SEC):
            status, answer = await _exchange(message, private, context)
        if not 200 <= status < 300:
            error = f"answered {status}" + ("; redirects are not followed" if 300 <= status < 400 else "")
    except TimeoutError:
        error = f"no answer within {TIMEOUT_SEC:.0f} s"
    except (BadUrl, _NotPublic) as refused:
        error = str(refused)
    except ssl.SSLError as failed:
        error = f"TLS: {failed.reason or failed}"
    except (Broken, BadBody, BadHead) as failed:
        error = f"no HTTP answer: {failed}"
    except OSError as failed:
        error = f"cannot be reached: {failed.strerror or failed}"
    return Outcome(status, error and error[:500], answer, round((time.monotonic() - began) * 1000))


class _NotPublic(Exception):
    pass


async def _exchange(message: Message, private: bool, context: ssl.SSLContext | None) -> tuple[int, str]:
    parts = parse(message.url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = await _resolve(host, port, private)
    tls = (context or await asyncio.to_thread(ssl.create_default_context)) if secure else None
    stream = await connect_tcp(address, port, ssl=tls, server_hostname=host)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [("User-Agent", "wrenn"), ("Connection", "close"), *message.headers]
    async with (
        stream,
        Connection(stream, host=parts.netloc, timeouts=Timeouts(head=TIMEOUT_SEC, idle=TIMEOUT_SEC)) as http,
    ):
        response = await http.request(message.method, target, headers=headers, body=message.body)
        got = b""
        async for piece in response.aiter():
            got += piece
            if len(got) >= ANSWER_MAX:
                break
    return response.status, got[:ANSWER_MAX].decode("utf-8", "replace").replace("\0", "\ufffd")


async def _resolve(host: str, port: int, private: bool) -> str:
    """The address to connect to. :raises _NotPublic: one of them is not of the internet; :raises OSError:"""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(info[4][0]) for info in found]
    if not private and not all(is_public(address) for address in addresses):
        raise _NotPublic(f"{host} does not lead to the public internet alone")
    return addresses[0]
