"""An HTTP server that notes what it is sent, and answers as a test wants."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from wrenn_server.wire.head import parse_request


@dataclass(frozen=True, slots=True)
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, bytes] | tuple[int, bytes, str]
"""Status, body, and lines of the head."""


@dataclass
class Endpoint:
    url: str = ""
    received: list[Received] = field(default_factory=list[Received])
    came: asyncio.Condition = field(default_factory=asyncio.Condition)
    answers: list[Answer] = field(default_factory=list[Answer])
    """The next ones, then 200."""
    before: Callable[[Received], Awaitable[None]] | None = None
    """What happens before an answer."""

    async def wait(self, count: int) -> list[Received]:
        """Until so many have come."""
        async with asyncio.timeout(20), self.came:
            await self.came.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = parse_request(await reader.readuntil(b"\r\n\r\n"))
            body = await reader.readexactly(int(head.fields.get("content-length", "0")))
            got = Received(head.method, head.target, dict(head.fields), body)
            async with self.came:
                self.received.append(got)
                self.came.notify_all()
            if self.before is not None:
                await self.before(got)
            status, content, *more = self.answers.pop(0) if self.answers else (200, b"ok")
            lines = "".join(more)
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{lines}\r\n".encode())
            writer.write(content)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def endpoint(context: ssl.SSLContext | None = None) -> AsyncGenerator[Endpoint, None]:
    made = Endpoint()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    made.url = f"{'https' if context else 'http'}://127.0.0.1:{port}"
    try:
        yield made
    finally:
        server.close()
