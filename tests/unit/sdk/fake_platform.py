"""A platform in this process, on a real socket: the part of `/v1` that the SDK calls, and an agent whose commands are
scripts. What it writes are the bytes of the protocol, put together by hand rather than by the code under test."""

import asyncio
import base64
import json
import struct
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "wrn_" + "0123456789abcdef" * 2 + "01234567"
TOKEN = "agent-token-of-this-sandbox"


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    """Several values of one name are joined by `&`."""
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Exchange:
    """One request and the way to answer it."""

    request: Request
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    async def answer(self, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = {"Content-Length": str(len(data)), "X-Request-Id": "req_fake", **(headers or {})}
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def problem(self, status: int, code: str, message: str, **more: object) -> None:
        await self.answer(
            status, {"error": {"code": code, "message": message, "request_id": "req_fake", **more}}
        )

    async def begin(self) -> None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await self.writer.drain()

    async def raw(self, data: bytes) -> None:
        """One chunk."""
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    async def envelope(self, message: object, flags: int = 0) -> None:
        payload = json.dumps(message).encode()
        await self.raw(struct.pack(">BI", flags, len(payload)) + payload)

    async def event(self, **event: object) -> None:
        await self.envelope({"event": event})

    async def stdout(self, data: bytes) -> None:
        await self.event(data={"stdout": base64.b64encode(data).decode()})

    async def stderr(self, data: bytes) -> None:
        await self.event(data={"stderr": base64.b64encode(data).decode()})

    async def exit(self, code: int = 0, status: str | None = None) -> None:
        status = status or f"exit status {code}"
        end = {"exitCode": code, "error": status} if code else {}  # proto3 JSON leaves out zeroes
        await self.event(end={**end, "exited": code >= 0, "status": status})
        await self.finish()

    async def finish(self, error: dict[str, str] | None = None) -> None:
        await self.envelope({"error": error} if error else {}, flags=2)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def abort(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Platform:
    """
    ```python
    with running() as platform:
        platform.commands["uname"] = lambda to: …
        Sandbox.create(base_url=platform.base_url, api_key=KEY)
    ```
    """

    base_url: str = ""
    commands: dict[str, Script] = field(default_factory=dict[str, Script])
    """What `/bin/bash -l -c CMD` does, by CMD; runs after the start event."""
    routes: dict[str, Script] = field(default_factory=dict[str, Script])
    """Overrides, by `METHOD /path`."""
    sandboxes: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    requests: list[Request] = field(default_factory=list[Request])
    stdin: bytearray = field(default_factory=bytearray)
    stdin_closed: asyncio.Event = field(default_factory=asyncio.Event)
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """For scripts that wait for the test: `platform.let_go()`."""
    accepted: int = 0
    """TCP connections."""
    loop: asyncio.AbstractEventLoop | None = None

    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.ended.set)

    def let_go(self) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.release.set)

    def calls(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                await self.handle(Exchange(request, writer, reader))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def handle(self, to: Exchange) -> None:
        request = to.request
        override = self.routes.get(f"{request.method} {request.path}")
        if override is not None:
            await override(to)
        elif request.headers.get("x-api-key") != KEY:
            await to.problem(401, "unauthorized", "the API key is not known")
        elif "e2b-sandbox-id" in request.headers:
            await self.agent(to)
        elif request.path.startswith("/v1/sandboxes"):
            await self.api(to, request.path.removeprefix("/v1/sandboxes").strip("/").split("/"))
        else:
            await to.problem(404, "not_found", "no such path")

    async def api(self, to: Exchange, path: list[str]) -> None:
        match to.request.method, path:
            case "POST", [""]:
                body = to.request.json()
                if body["template"] not in {"minimal", "base"}:
                    await to.problem(404, "template_not_found", f"no template {body['template']!r}")
                    return
                await to.answer(201, self.add(**{k: v for k, v in body.items() if k != "envs"}))
            case "GET", [""]:
                rows = list(reversed(self.sandboxes.values()))
                start, limit = int(to.request.query.get("cursor", "0")), int(to.request.query["limit"])
                more = {"X-Next-Cursor": str(start + limit)} if start + limit < len(rows) else {}
                await to.answer(200, rows[start : start + limit], more)
            case method, [sandbox_id, *rest]:
                row = self.sandboxes.get(sandbox_id)
                if row is None or (method != "GET" and row["status"] == "killed"):
                    await to.problem(404, "not_found", f"no sandbox {sandbox_id}")
                    return
                await self.one(to, method, row, rest)
            case _:
                await to.problem(404, "not_found", "no such path")

    async def one(self, to: Exchange, method: str, row: dict[str, Any], rest: list[str]) -> None:
        body = json.loads(to.request.body or b"{}")
        match method, rest:
            case "GET", []:
                await to.answer(200, row)
            case "DELETE", []:
                row["status"] = "killed"
                await to.answer(204)
            case "POST", ["pause" | "resume" as verb]:
                before, after = ("running", "paused") if verb == "pause" else ("paused", "running")
                if row["status"] != before:
                    await to.problem(409, "invalid_state", f"the sandbox is {row['status']}")
                    return
                row["status"] = after
                row["envd_access_token"] = TOKEN
                if verb == "pause":
                    row["saved_memory"] = body.get("memory", True)
                else:
                    del row["saved_memory"]
                await to.answer(200, row)
            case "POST", ["timeout"]:
                row["timeout_sec"] = body["timeout_sec"]
                await to.answer(200, row)
            case "PUT", ["network"]:
                row["network"] = body
                await to.answer(200, row)
            case "GET", ["metrics"]:
                sizes = {"mem_bytes": 100, "mem_cache_bytes": 50, "mem_total_bytes": 400}
                disk = {"disk_bytes": 7, "disk_total_bytes": 900}
                point = {"timestamp_unix": 1795477651.5, "cpu_pct": 12.5, "cpu_count": 2, **sizes, **disk}
                await to.answer(200, {"sandbox_id": row["id"], "points": [point]})
            case "POST", ["fork"]:
                renewed = ["random", "boot_id", "token"]
                forks = [{"sandbox": self.add(**row), "renewed": renewed} for _ in range(body["count"])]
                await to.answer(201, forks)
            case "POST", ["snapshots"]:
                snapshot = {"id": "snap_1", "sandbox_id": row["id"], "memory": body.get("memory", True)}
                names = [f"{body['name']}:default"] if "name" in body else []
                shape = {
                    name: row[name] for name in ("template", "vcpus", "memory_mb", "disk_mb", "created_at")
                }
                await to.answer(201, {**snapshot, **shape, "names": names, "size_bytes": 1 << 20})
            case "POST", ["rollback"]:
                if body["snapshot"] not in ("snap_1", "before"):
                    await to.problem(400, "snapshot_of_another", "not a snapshot of it")
                    return
                row["generation"] += 1
                await to.answer(200, row)
            case _:
                await to.problem(404, "not_found", "no such path")

    def add(self, **given: Any) -> dict[str, Any]:
        row: dict[str, Any] = {
            "vcpus": 1,
            "memory_mb": 512,
            "disk_mb": 5120,
            "timeout_sec": 0,
            "on_timeout": "kill",
            "metadata": {},
            "template": "minimal",
            **given,
            "id": f"sb{len(self.sandboxes):020d}",
            "status": "running",
            "created_at": "2026-11-23T23:47:31.123456Z",
            "last_updated": "2026-11-23T23:47:31.123456Z",
            "generation": 1,
            "envd_access_token": TOKEN,
            **({"traffic_token": "traffic-token-of-this-sandbox"} if given.get("private") else {}),
            "of_a_later_version": {"ignored": True},
        }
        self.sandboxes[row["id"]] = row
        return row

    async def agent(self, to: Exchange) -> None:
        headers = to.request.headers
        row = self.sandboxes.get(headers["e2b-sandbox-id"])
        if row is None or row["status"] != "running":
            body = {
                "sandboxId": headers["e2b-sandbox-id"],
                "message": "The sandbox was not found",
                "code": 502,
            }
            await to.answer(502, body)
            return
        assert headers["e2b-sandbox-port"] == "49983"
        if headers.get("x-access-token") != TOKEN:
            await to.answer(401, {"code": "unauthenticated", "message": "wrong token"})
            return
        path = to.request.query.get("path", "")
        match to.request.method, to.request.path:
            case "POST", "/process.Process/Start" | "/process.Process/Connect":
                await self.process(to)
            case "POST", "/process.Process/SendInput":
                self.stdin += base64.b64decode(to.request.json()["input"]["stdin"])
                await to.answer(200, {})
            case "POST", "/process.Process/CloseStdin":
                self.stdin_closed.set()
                await to.answer(200, {})
            case "POST", "/process.Process/SendSignal":
                self.killed.set()
                if to.request.json()["process"].get("pid") != 42:
                    await to.answer(404, {"code": "not_found", "message": "process not found"})
                    return
                await to.answer(200, {})
            case "POST", "/process.Process/List":
                config = {"cmd": "/bin/bash", "args": ["-l", "-c", "sleep 1"]}
                await to.answer(200, {"processes": [{"config": config, "pid": 42, "tag": "job"}]})
            case "GET", "/files" if path in self.files:
                await to.answer(200, self.files[path])
            case "GET", "/files":
                await to.answer(404, {"code": 404, "message": f"path '{path}' does not exist"})
            case "POST", "/files":
                self.files[path] = to.request.body
                await to.answer(200, [{"path": path, "name": path.rsplit("/", 1)[-1], "type": "file"}])
            case _:
                await to.answer(404, {"code": "unimplemented", "message": "not in the fake"})

    async def process(self, to: Exchange) -> None:
        flags, length = struct.unpack_from(">BI", to.request.body)
        assert flags == 0
        assert length == len(to.request.body) - 5
        message = json.loads(to.request.body[5:])
        args = message["process"].get("args", ["connect"])
        await to.begin()
        script = self.commands.get(args[-1])
        if script is None:
            error = {"code": "invalid_argument", "message": f"error starting process '{args[-1]}'"}
            await to.finish(error)
            return
        await to.event(start={"pid": 42})
        await script(to)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    url = urlsplit(target)
    query = {name: "&".join(values) for name, values in parse_qs(url.query, keep_blank_values=True).items()}
    return Request(method, url.path, query, headers, body)


@contextmanager
def running() -> Generator[Platform]:
    """A platform on a port of its own, in a thread of its own: for synchronous and asynchronous clients alike."""
    platform = Platform()
    ready = threading.Event()

    async def main() -> None:
        platform.loop = asyncio.get_running_loop()
        server = await asyncio.start_server(platform.serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        platform.base_url = f"http://{host}:{port}"
        ready.set()
        await platform.ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="fake-platform")
    thread.start()
    assert ready.wait(10)
    try:
        yield platform
    finally:
        platform.let_go()
        platform.stop()
        thread.join(10)
