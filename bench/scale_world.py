"""The processes that `bench.scale` measures: PostgreSQL, the control plane, and one server in the place of all agents."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.edge_machine import Running, free_port
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent

STARTS_WITHIN = 120.0
"""Seconds, on a busy machine."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Postgres:
    pid: int

    @classmethod
    def at(cls, directory: Path) -> "Postgres":
        return cls(int((directory / "server/data/postmaster.pid").read_text().splitlines()[0]))

    def cpu(self) -> float:
        """Seconds of a core: the server, its backends, and those that have ended."""
        _, used = _stat(self.pid, ended=True)
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    parent, seconds = _stat(int(directory.name))
                    used += seconds if parent == self.pid else 0.0
        return used


def _stat(pid: int, *, ended: bool = False) -> tuple[int, float]:
    """Its parent and its seconds of processor time; with those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), sum(int(field) for field in fields[11 : 15 if ended else 13]) / _TICK


@contextlib.asynccontextmanager
async def control_plane(directory: Path, database_url: str) -> AsyncGenerator[Running]:
    """`wrenn-cp` as it is deployed, one process."""
    port = free_port()
    settings = {
        "DATABASE_URL": database_url,
        "CP_LISTEN_ADDR": f"127.0.0.1:{port}",
        "WRENN_DATA_DIR": os.fspath(directory),
        "WRENN_LOG_LEVEL": "warning",
    }
    with (directory / "wrenn-cp.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "wrenn_server.controlplane.main",
            cwd=directory, env=os.environ | settings, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with asyncio.timeout(STARTS_WITHIN):
            while not await _listens(port):
                if process.returncode is not None:
                    raise RuntimeError((directory / "wrenn-cp.log").read_text())
                await asyncio.sleep(0.1)
        yield Running(process.pid, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


# In the place of agents


class Agents:
    """Answers at once to what a control plane asks of hosts for creates and kills, of all hosts at one port."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        """Answers about sandboxes that were started, by their ids."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, _, rest = head.partition(b"\r\n")
                method, target, _ = line.decode().split(" ")
                size = rest.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(size or 0))
                status, answer = self.answer(method, target.partition("?")[0].rpartition("/")[2], body)
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(answer), answer))
        writer.close()

    def answer(self, method: str, sandbox_id: str, body: bytes) -> tuple[int, bytes]:
        match method:
            case "PUT":
                start = msgspec.json.decode(body, type=agent.Start)
                report = agent.SandboxReport(
                    id=sandbox_id, generation=start.generation, state=State.RUNNING, vcpus=start.vcpus,
                    memory_mb=start.memory_mb, disk_mb=start.disk_mb, envd_version="0.6.13",
                )  # fmt: skip
                self.held[sandbox_id] = msgspec.json.encode(report)
                return 200, self.held[sandbox_id]
            case "GET" if sandbox_id in self.held:
                return 200, self.held[sandbox_id]
            case "DELETE":
                self.held.pop(sandbox_id, None)
                return 204, b""
            case _:
                return 404, b'{"error":{"code":"sandbox_not_found","message":"no such sandbox"}}'


@contextlib.asynccontextmanager
async def agents() -> AsyncGenerator[str]:
    """HOST:PORT of all hosts; a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.scale_world",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.stdin.close()
        await process.wait()


async def _serve() -> None:
    server = await asyncio.start_server(Agents().serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
