"""The guest of a VM that is none: a real HTTP server on loopback."""

import asyncio
import contextlib
import json
from typing import Any

from wrenn_server.wire import envd


class FakeEnvd:
    """`/health` and `/init` as envd has them; the token lives in "memory" and so goes into snapshots."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.inits: list[dict[str, Any]] = []
        self.runs: list[str] = []
        self.refuse = False
        self.syncs = 0
        self.hangs = False
        """It never finishes a sync."""
        self.metrics: bytes | None = b"{}"
        """None: it never answers."""
        self.renewed = "random,boot_id,nonsense"
        """What it says of itself on the answer to `/init`."""
        self.idle: bytes = b"{}"
        """What it answers when it is asked what goes on in it."""
        self.loopback: bytes | None = None
        """What it answers when it is asked for a port of its loopback; None: nobody listens there."""
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, start_serving=False)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            await self._server.start_serving()
        except asyncio.CancelledError:
            self.stop()
            raise

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            status, answer = 204, b""
            if head.startswith("POST /process.Process/Start "):
                status = 200
                self.runs.append(envd.Envelopes().feed(body).__next__()[1].decode())
            if head.startswith("POST /init "):
                status = self._init(json.loads(body), fields.get("x-access-token"))
            if head.startswith("GET /tunnel?port=") and self.loopback is not None:
                await self._tunnel(reader, writer)
                return
            if head.startswith("GET /tunnel?port="):
                status = 502
            if head.startswith("GET /activity "):
                status, answer = 200, self.idle
            if head.startswith("POST /sync "):
                status = await self._sync(fields.get("x-access-token"))
            if head.startswith("GET /metrics ") and self.metrics is None:
                await reader.read()
            elif head.startswith("GET /metrics "):
                status, answer = 200, self.metrics or b""
            framing = f"Content-Length: {len(answer)}\r\nConnection: close\r\nX-Envd-Renewed: {self.renewed}"
            writer.write(f"HTTP/1.1 {status} Answer\r\n{framing}\r\n\r\n".encode() + answer)
            await writer.drain()
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An echo behind whatever `loopback` answers with."""
        writer.write(self.loopback or b"")
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def _sync(self, proof: str | None) -> int:
        if self.token and proof != self.token:
            return 401
        if self.hangs:
            await asyncio.Event().wait()
        self.syncs += 1
        return 204

    def _init(self, body: dict[str, Any], proof: str | None) -> int:
        if self.refuse:
            return 500
        if self.token and proof != self.token:
            return 401
        self.inits.append(body)
        self.token = body["accessToken"]
        return 204
