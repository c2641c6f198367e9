"""A control plane that is a socket with a script."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

Answer = Callable[[str, dict[str, Any]], tuple[int, object] | None]


class FakeControlPlane:
    """Answers each call by `answer(path, body)`; None: closes without one."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[tuple[str, dict[str, str], dict[str, Any]]] = asyncio.Queue()
        self.answer: Answer = lambda path, body: (204, None)
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines if line)
            fields = {name.lower(): value for name, value in fields.items()}
            body = json.loads(await reader.readexactly(int(fields.get("content-length", 0))))
            path = first.split()[1]
            answer = self.answer(path, body)
            if answer is not None:
                data = json.dumps(answer[1]).encode() if answer[1] is not None else b""
                writer.write(f"HTTP/1.1 {answer[0]} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
            self.calls.put_nowait((path, fields, body))
        writer.close()
