"""What the cases are made of. The unmodified SDK is called through `Sdk`, so that one case serves both of its halves:
`await sdk(sandbox.files.read, "a")` runs the synchronous method in a thread and awaits the asynchronous one.
"""

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

e2b: Any = importlib.import_module("e2b")
httpx: Any = importlib.import_module("httpx")

CASE_SECONDS = 60.0
WEB_SERVER = Path(__file__).parent.with_name("guest_web_server.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row of the table."""

    method: str
    title: str
    also: tuple[str, ...]
    """Other public methods that this case is the row of."""
    only: str | None
    """"sync" or "async" where the other half has no such method."""
    since: tuple[int, int]
    """The first version of the SDK that has it."""
    domain: bool
    """What is checked depends on the mode: run in both."""
    seconds: float
    run: Callable[["Sdk"], Awaitable[None]]

    @property
    def row(self) -> str:
        return f"{self.method} | {self.title}"


def case(
    method: str,
    title: str,
    *,
    also: tuple[str, ...] = (),
    only: str | None = None,
    since: tuple[int, int] = (2, 45),
    domain: bool = False,
    seconds: float = CASE_SECONDS,
) -> Callable[[Callable[["Sdk"], Awaitable[None]]], Case]:
    def decorate(run: Callable[["Sdk"], Awaitable[None]]) -> Case:
        return Case(
            method=method,
            title=title,
            also=also,
            only=only,
            since=since,
            domain=domain,
            seconds=seconds,
            run=run,
        )

    return decorate


@dataclass(slots=True, kw_only=True)
class Sdk:
    """One half of the SDK, and what the cases share."""

    half: str
    """"sync" or "async"."""
    _shared: Any = None
    _serving: bool = False
    _kept: list[Any] = field(default_factory=list[Any])

    @property
    def is_async(self) -> bool:
        return self.half == "async"

    @property
    def version(self) -> tuple[int, int]:
        major, minor, *_ = importlib.import_module("importlib.metadata").version("e2b").split(".")
        return int(major), int(minor)

    def __getattr__(self, name: str) -> Any:
        """`sdk.Sandbox` is Sandbox or AsyncSandbox; names without two halves are given as they are."""
        return getattr(e2b, f"Async{name}" if self.is_async and hasattr(e2b, f"Async{name}") else name)

    async def __call__(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if not self.is_async:
            return await asyncio.to_thread(method, *args, **options)
        result = method(*args, **options)
        return await result if inspect.isawaitable(result) else result

    def start(self, method: Callable[..., Any], *args: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self(method, *args, **options))

    @asynccontextmanager
    async def sandbox(self, **options: Any) -> AsyncGenerator[Any, None]:
        """A sandbox of one case's own."""
        sandbox = await self(self.Sandbox.create, **({"timeout": 120} | options))
        try:
            yield sandbox
        finally:
            with contextlib.suppress(Exception):
                await self(sandbox.kill)

    async def shared(self) -> Any:
        """One sandbox for all cases that leave it as it was."""
        if self._shared is None:
            self._shared = await self(self.Sandbox.create, timeout=1800)
            self._serving = False
        return self._shared

    async def renew(self) -> None:
        """After a case that failed nothing is known about the shared sandbox."""
        if self._shared is not None:
            with contextlib.suppress(Exception):
                await self(self._shared.kill)
            self._shared = None

    async def serving(self) -> Any:
        """The shared sandbox with the web server on 8080, and on 8081 where only the guest's loopback reaches it."""
        sandbox = await self.shared()
        if not self._serving:
            await self.serve(sandbox, "0.0.0.0:8080", "127.0.0.1:8081")
            self._serving = True
        return sandbox

    async def serve(self, sandbox: Any, *places: str) -> None:
        """Returns when all of them listen; the server outlives the command."""
        await self(sandbox.files.write, "/tmp/web.py", WEB_SERVER.read_text())
        server = f"setsid python3 -IS /tmp/web.py {' '.join(places)} </dev/null 2>/tmp/web.log"
        await self(sandbox.commands.run, f"read -r < <({server})", timeout=60)

    async def metadata_sandboxes(self, metadata: dict[str, str], **options: Any) -> list[Any]:
        """All pages of a listing by metadata."""
        paginator = self.Sandbox.list(query=e2b.SandboxQuery(metadata=metadata), **options)
        found: list[Any] = []
        while paginator.has_next:
            found += await self(paginator.next_items)
        return found


async def until(question: Callable[[], Awaitable[Any]], *, seconds: float = 20.0) -> Any:
    """The first true answer; the SDKs have no event for what is asked here."""
    deadline = time.monotonic() + seconds
    while not (answer := await question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s")
        await asyncio.sleep(0.1)
    return answer


@dataclass(slots=True)
class Raised:
    error: Any = None


@contextmanager
def raises(*kinds: type[BaseException], saying: str = "") -> Generator[Raised, None, None]:
    raised = Raised()
    try:
        yield raised
    except kinds as error:
        raised.error = error
    assert raised.error, f"none of {[kind.__name__ for kind in kinds]} was raised"
    assert saying in str(raised.error), f"{raised.error!r} does not say {saying!r}"


async def chunks(stream: Any) -> list[bytes]:
    """Everything that a stream of either half gives."""
    if hasattr(stream, "__aiter__"):
        return [chunk async for chunk in stream]
    return await asyncio.to_thread(list, stream)


async def fetch(url: str, *, method: str = "GET", **options: Any) -> Any:
    """A plain HTTP client's request, as a program beside the SDK makes it."""
    async with httpx.AsyncClient(timeout=30, follow_redirects=False) as client:
        return await client.request(method, url, **options)


def port_url(sandbox: Any, port: int, path: str = "/") -> tuple[str, dict[str, str]]:
    """Address and headers of a user's port: by name in domain mode, by headers on the one plain port."""
    if loopback := os.environ.get("E2B_SANDBOX_URL"):
        return loopback + path, {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    return f"https://{sandbox.get_host(port)}{path}", {}


async def get(sandbox: Any, port: int, path: str = "/", headers: dict[str, str] | None = None) -> Any:
    url, routing = port_url(sandbox, port, path)
    return await fetch(url, headers=routing | (headers or {}))


def websocket_echo(sandbox: Any, port: int, text: str) -> str:
    """Opens a WebSocket by hand, sends one text frame and reads the one that comes back."""
    url, headers = port_url(sandbox, port, "/socket")
    target = urlsplit(url)
    plain = socket.create_connection(edge_address(), timeout=30)
    if target.scheme == "https":
        plain = ssl.create_default_context().wrap_socket(plain, server_hostname=target.hostname)
    with plain as connection, connection.makefile("rb") as reader:
        head = {
            "Host": target.netloc,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        connection.sendall(f"GET {target.path} HTTP/1.1\r\n{lines}\r\n".encode())
        status = reader.readline()
        assert b"101" in status, status
        while reader.readline().strip():
            pass
        data = text.encode()
        connection.sendall(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)
        _, length = reader.read(2)
        return reader.read(length).decode()


def edge_address() -> tuple[str, int]:
    host, _, port = os.environ["COMPAT_EDGE"].rpartition(":")
    return host, int(port)


def outside() -> tuple[str, int]:
    """Address and port of a server outside the sandbox that answers every connection with `outside`."""
    host, _, port = os.environ["COMPAT_OUTSIDE"].rpartition(":")
    return host, int(port)


def json_of(response: Any) -> Any:
    return json.loads(response.content)
