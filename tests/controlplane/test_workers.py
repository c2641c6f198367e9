"""The program `wrenn-cp` as it runs on servers: several processes on one port, and TLS."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx2
import pytest

from support.certificates import SelfSigned, self_signed
from wrenn_server.linux import notify
from wrenn_server.up.demo import free_port

START_TIMEOUT = 90.0


@contextlib.asynccontextmanager
async def program(
    directory: Path, database_url: str, **environ: str
) -> AsyncGenerator[tuple[asyncio.subprocess.Process, int]]:
    """`wrenn-cp` on a port of its own, once it says that it serves."""
    port = free_port()
    async with notify.listener(directory / "notify") as listener:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "wrenn_server.controlplane.main",
            env={
                "PATH": os.environ["PATH"], "DATABASE_URL": database_url, "CP_LISTEN_ADDR": f"127.0.0.1:{port}",
                "NOTIFY_SOCKET": str(listener.path), **environ,
            },
            cwd=directory, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await listener.wait_ready()
            yield process, port
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(START_TIMEOUT):
        while not condition():  # noqa: ASYNC110 - other processes, which tell us nothing
            await asyncio.sleep(0.05)


async def test_two_workers(database_url: str, tmp_path: Path) -> None:
    async with program(tmp_path, database_url, CP_WORKERS="2") as (process, port):
        url = f"http://127.0.0.1:{port}"
        workers = children(process.pid)
        assert len(workers) == 2

        async def request(path: str) -> httpx2.Response:
            async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
                return await http.get(url + path)

        for _ in range(20):
            assert (await request("/health")).status_code == 200
        metrics = (await request("/metrics")).text
        counts = re.findall(
            r'wrenn_edge_requests_total{status="2xx",to="api",worker="(\d)"} ([\d.]+)', metrics
        )
        assert sum(float(count) for _, count in counts) == 20, "one scrape tells of all workers"
        assert metrics.count("# TYPE wrenn_edge_requests_total counter") == 1
        assert set(re.findall(r'process_open_fds{worker="(\d)"}', metrics)) == {"0", "1"}

        os.kill(workers[0], signal.SIGKILL)
        await until(lambda: len(set(children(process.pid)) - {workers[0]}) == 2)
        for _ in range(20):
            assert (await request("/health")).status_code == 200
        await until(lambda: len(listeners(port)) == 2)

        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert not listeners(port)


def listeners(port: int) -> list[str]:
    """Sockets of this machine that accept connections on the port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return [line for line in lines if f":{port:04X} 00000000:0000 0A" in line]


async def test_workers_do_not_outlive_their_parent(database_url: str, tmp_path: Path) -> None:
    async with program(tmp_path, database_url, CP_WORKERS="2") as (process, _):
        workers = children(process.pid)
        process.kill()
        await process.wait()
        await until(lambda: not any(runs(worker) for worker in workers))


async def test_a_port_of_another_program(database_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "wrenn_server.controlplane.main", cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "CP_LISTEN_ADDR": address, "CP_WORKERS": "2"},
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
        assert process.returncode == 1
        assert b"in use" in err
        assert b"Traceback" not in err


# TLS


async def connect(port: int, trusted: SelfSigned) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=trusted.client())


def made(directory: Path) -> SelfSigned:
    directory.mkdir()
    return self_signed(directory, "127.0.0.1")


def put(pair: SelfSigned, live: Path) -> None:
    """As certificate managers do it: each file replaced at once, one after the other."""
    for file in (pair.certificate, pair.key):
        new = live / f"{file.name}.new"
        new.write_bytes(file.read_bytes())
        new.replace(live / file.name)


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /health HTTP/1.1\r\nHost: api.sandboxes.test\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert length
    await reader.readexactly(int(length[1]))
    return head.split(b"\r\n")[0]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_renewed_certificate_takes_the_place_of_the_old(
    database_url: str, tmp_path: Path, workers: int
) -> None:
    old, new, newest = (made(tmp_path / name) for name in ("old", "new", "newest"))
    live = tmp_path / "live"
    live.mkdir()
    put(old, live)
    port = free_port()
    async with program(
        tmp_path, database_url, CP_WORKERS=str(workers), CP_TLS_LISTEN_ADDR=f"127.0.0.1:{port}",
        CP_TLS_CERT=str(live / "certificate.pem"), CP_TLS_KEY=str(live / "key.pem"),
    ) as (process, _):  # fmt: skip
        kept = await connect(port, old)
        assert await get(*kept) == b"HTTP/1.1 200 OK"

        async def presents(pair: SelfSigned) -> bool:
            """On every worker, as far as a few connections can tell."""
            for _ in range(8):
                try:
                    _, writer = await connect(port, pair)
                except ssl.SSLCertVerificationError:
                    return False
                writer.transport.abort()
            return True

        async def followed(pair: SelfSigned) -> None:
            async with asyncio.timeout(30):
                while not await presents(pair):  # noqa: ASYNC110 - another process, which tells us nothing
                    await asyncio.sleep(0.1)

        put(new, live)
        await followed(new)
        (live / "key.pem").write_bytes(old.key.read_bytes())  # no longer a pair: what was there stays
        process.send_signal(signal.SIGHUP)
        assert await get(*kept) == b"HTTP/1.1 200 OK"
        assert await presents(new)
        put(newest, live)
        process.send_signal(signal.SIGHUP)
        await followed(newest)
        assert await get(*kept) == b"HTTP/1.1 200 OK", "connections go on"
        kept[1].transport.abort()


@pytest.mark.parametrize("content", [b"", b"nonsense", None], ids=["empty", "nonsense", "missing"])
async def test_a_certificate_that_is_none(database_url: str, tmp_path: Path, content: bytes | None) -> None:
    pair = self_signed(tmp_path, "127.0.0.1")
    pair.certificate.unlink() if content is None else pair.certificate.write_bytes(content)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wrenn_server.controlplane.main", cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"], "DATABASE_URL": database_url, "CP_LISTEN_ADDR": "127.0.0.1:0",
            "CP_TLS_CERT": str(pair.certificate), "CP_TLS_KEY": str(pair.key),
        },
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 1
    assert f"CP_TLS_CERT={pair.certificate}".encode() in err
    assert b"Traceback" not in err
