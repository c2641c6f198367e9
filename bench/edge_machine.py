"""The machinery around `bench.edge`: nginx and our programs as processes, and the load that they get."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

PIECE = 256 * 1024
SECONDS_NGINX_STARTS = 10.0

_NGINX = """
worker_processes 1; daemon off; master_process off; pid {directory}/{name}.pid; error_log stderr crit;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; client_max_body_size 0;
  client_body_temp_path {directory}/{name}-1; proxy_temp_path {directory}/{name}-2;
  fastcgi_temp_path {directory}/{name}-3; uwsgi_temp_path {directory}/{name}-4; scgi_temp_path {directory}/{name}-5;
  {http}
}}
"""
_ORIGIN = "server {{ listen 127.0.0.1:{port}; root {directory}/www; }}"
_PROXY = """
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header Connection $connection_upgrade;
  proxy_set_header Upgrade $http_upgrade; proxy_set_header X-Forwarded-For $remote_addr; proxy_request_buffering off;
  proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 512k; proxy_max_temp_file_size 0;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 128; keepalive_requests 1000000000; }}
  upstream server {{ server 127.0.0.1:{server}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://origin; }}
    location /server {{ proxy_pass http://server; }}
  }}
"""


class Missing(Exception):
    """A program that the measurement needs is not installed; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Running:
    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of a core that it has used so far, to the nanosecond."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory(self, *, highest: bool = False) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:" if highest else "VmRSS:")[1].split()[0]) * 1024


def demand(*programs: str) -> None:
    """:raises Missing:"""
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise Missing(f"install {' and '.join(missing)}, e.g. `apt-get install nginx-light wrk`")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def program(*words: str) -> AsyncGenerator[Running]:
    """One of `bench.edge_programs`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.edge_programs", *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Running(process.pid, int(await process.stdout.readline()))
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(15):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def origin(directory: Path) -> AsyncGenerator[Running]:
    """Serves `directory/www`."""
    port = free_port()
    async with _nginx(directory, "origin", port, _ORIGIN.format(port=port, directory=directory)) as running:
        yield running


@contextlib.asynccontextmanager
async def proxy(directory: Path, origin: int, server: int) -> AsyncGenerator[Running]:
    """nginx in the place of the edge: files come from `origin`, `/server` is the other upstream."""
    port = free_port()
    async with _nginx(
        directory, "proxy", port, _PROXY.format(port=port, origin=origin, server=server)
    ) as running:
        yield running


@contextlib.asynccontextmanager
async def _nginx(directory: Path, name: str, port: int, http: str) -> AsyncGenerator[Running]:
    file = directory / f"{name}.conf"
    file.write_text(_NGINX.format(directory=directory, name=name, http=http))
    process = await asyncio.create_subprocess_exec("nginx", "-c", os.fspath(file), "-p", os.fspath(directory))
    try:
        async with asyncio.timeout(SECONDS_NGINX_STARTS):
            while True:
                with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
                    break
                await asyncio.sleep(0.05)
        yield Running(process.pid, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


# Load


@dataclass(frozen=True, slots=True)
class Load:
    requests: int
    seconds: float
    p50: float
    p99: float
    """Seconds."""


_REPORT = """
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.read + summary.errors.timeout + summary.errors.connect
  io.write(string.format('\\n{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"bad":%d}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, bad))
end
"""


async def load(directory: Path, port: int, path: str, host: str, *, connections: int, seconds: int) -> Load:
    """Requests for a small body, by wrk: as many connections as said, each with one request at a time."""
    script = directory / "report.lua"
    script.write_text(_REPORT)
    headers = {
        "Host": host, "User-Agent": "e2b-python-sdk/2.63.0", "Accept": "*/*", "Accept-Encoding": "gzip, deflate",
        "X-Access-Token": "0" * 40,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", os.fspath(script),
        *[word for name, value in headers.items() for word in ("-H", f"{name}: {value}")],
        f"http://127.0.0.1:{port}{path}", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    result = json.loads(output.decode().strip().splitlines()[-1])
    if result.pop("bad") or not result["requests"]:
        raise RuntimeError(f"requests to port {port} failed: {output.decode()}")
    return Load(**result)


def download(port: int, path: str, host: str, size: int) -> float:
    """Seconds."""
    buffer = bytearray(PIECE)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        received = 0
        while count := connection.recv_into(buffer):
            received += count
        seconds = time.perf_counter() - began
    if received < size:
        raise RuntimeError(f"{received} bytes of {size} came from port {port}")
    return seconds


def upload(port: int, path: str, host: str, size: int) -> float:
    """Seconds until it is answered."""
    piece = bytes(PIECE)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.perf_counter()
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // PIECE):
            connection.sendall(piece)
        answer = connection.recv(65536)
        seconds = time.perf_counter() - began
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the upload to port {port} was answered with {answer[:200]!r}")
    return seconds


_OPEN = (
    b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_FRAME = b"\x81\x85\0\0\0\0hello"


@contextlib.asynccontextmanager
async def websockets(port: int, path: str, host: str, count: int) -> AsyncGenerator[list["WebSocket"]]:
    """So many, opened one after the other and idle."""
    opened: list[WebSocket] = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(WebSocket(reader, writer))
            writer.write(_OPEN % (path.encode(), host.encode()))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"no WebSocket from port {port}: {head!r}")
        yield opened
    finally:
        for websocket in opened:
            websocket.writer.transport.abort()


@dataclass(frozen=True, slots=True)
class WebSocket:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def echo(self) -> float:
        """Seconds until a message has come back."""
        began = time.perf_counter()
        self.writer.write(_FRAME)
        await self.reader.readexactly(len(_FRAME))
        return time.perf_counter() - began
