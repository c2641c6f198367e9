"""Several processes on one port, `CP_WORKERS`: a control plane has no state of its own, so each is a whole one.

```
 wrenn-cp (parent): embedded PostgreSQL, the port reserved
   ├── worker 0: edge, API, reconcilers ── SO_REUSEPORT: the kernel spreads new connections over the workers
   └── worker 1: …
```
A worker that dies is started again, with back-off; its connections are lost, those of the others are not. A parent
that dies takes its workers with it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from wrenn_server.controlplane.config import Config
from wrenn_server.linux import child
from wrenn_server.linux.process import Process

READY_TIMEOUT = 60.0
GRACE = 38.0
"""Seconds for requests and work in flight; less than the 40 s of our systemd unit."""
MODULE = "wrenn_server.controlplane.main"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the workers this process is."""

    index: int
    count: int
    parent: int
    """Process id."""
    directory: Path
    """Where the workers' own sockets are."""

    @property
    def indices(self) -> range:
        return range(self.count)

    def socket(self, name: str, index: int) -> Path:
        """A unix socket of one worker that the others know."""
        return self.directory / f"{name}-{index}.sock"

    async def orphaned(self) -> None:
        """Returns when the parent is gone."""
        try:
            parent = Process.open(self.parent)
        except ProcessLookupError:
            return
        try:
            if os.getppid() == self.parent:
                await parent.wait()
        finally:
            parent.close()


@asynccontextmanager
async def kept(config: Config, database_url: str) -> AsyncGenerator[str, None]:
    """Keeps `config.workers` processes serving while the context lasts; gives the address, HOST:PORT.

    :raises ChildFailed: a worker did not come up; it wrote to our stderr why
    :raises OSError: the address cannot be had
    """
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(reserved(config.listen))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="wrenn-cp-"))
        # The program may be a single file that made its own sys.path.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        env = {
            **os.environ,
            "PYTHONPATH": path,
            "DATABASE_URL": database_url,
            "CP_LISTEN_ADDR": address,
        }
        if config.tls is not None:
            env["CP_TLS_LISTEN_ADDR"] = stack.enter_context(reserved(config.tls.listen))
        stop = asyncio.Event()
        ready = [asyncio.Event() for _ in range(config.workers)]
        workers: list[child.Child] = []

        async def keep(index: int) -> None:
            words = [
                "worker", str(index), "--count", str(config.workers),
                "--parent", str(os.getpid()), "--directory", directory,
            ]  # fmt: skip
            async with child.kept(
                f"worker-{index}",
                [sys.executable, "-m", MODULE, *words],
                env=env,
                directory=Path(directory),
                log=None,
                ready_timeout=READY_TIMEOUT,
                grace=GRACE,
                on_exit=lambda code: log.warning(
                    "a worker ended", action="worker_exit", worker=index, code=code
                ),
            ) as worker:
                workers.append(worker)
                ready[index].set()
                await stop.wait()

        def pass_on() -> None:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGHUP)

        keepers = [
            asyncio.create_task(keep(index), name=f"worker {index}") for index in range(config.workers)
        ]
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, pass_on)
        all_ready = asyncio.gather(*(event.wait() for event in ready))
        try:
            await asyncio.wait({all_ready, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    await keeper  # raises what kept it from coming up
            yield address
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            stop.set()
            if not all_ready.done():
                all_ready.cancel()
                for keeper in keepers:
                    keeper.cancel()
            await asyncio.wait(keepers)


@contextmanager
def reserved(listen: str) -> Generator[str]:
    """HOST:PORT with the real port. While the context lasts, only those who use SO_REUSEPORT as we do can have it.

    :param listen: HOST:PORT, port 0 for any
    :raises OSError: another program has it
    """
    host, _, port = listen.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        # Without SO_REUSEPORT: two installations that share a port by mistake would each get half of the requests.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)
        taken = probe.getsockname()
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(taken)
        yield f"{host}:{taken[1]}"
