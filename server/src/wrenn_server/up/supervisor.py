"""The process behind `wrenn up`: keeps PostgreSQL, control plane and host agent running until it is told to stop.

It is the parent of both programs, but not of the VMs: those outlive everything here. `wrenn up` starts it in the
background and reads its progress from a pipe, one JSON object a line: `{"step": …}`, `{"ready": true}`, `{"error": …}`.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import structlog

from wrenn_server.hostagent import config as agent_config
from wrenn_server.linux import child
from wrenn_server.obs import logs
from wrenn_server.up import environment
from wrenn_server.up import settings as settings_module
from wrenn_server.up.platform import Platform
from wrenn_server.up.settings import Settings

log = structlog.get_logger()

PURGE = signal.SIGUSR1
"""Like SIGTERM, but running sandboxes are ended instead of paused."""
READY_TIMEOUT = 60.0
"""Seconds a program gets to say that it serves; an agent may have many sandboxes to adopt."""


class AlreadyRunning(Exception):
    """Another supervisor holds the lock of this data directory."""


@dataclass(frozen=True, slots=True)
class Report:
    """Tells `wrenn up` how far we are. A reader that is gone does not matter."""

    write: Callable[[str], object]

    def step(self, name: str) -> None:
        self._send({"step": name})

    def ready(self) -> None:
        self._send({"ready": True})

    def error(self, message: str) -> None:
        self._send({"error": message})

    def _send(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            self.write(json.dumps(message) + "\n")


async def supervise(settings: Settings, report: Report, stop: asyncio.Future[str]) -> None:
    """Starts everything, says ready, waits for `stop`, ends everything in reverse order.

    `stop` tells what becomes of running sandboxes: `pause` or `kill`.

    :raises AlreadyRunning, child.ChildFailed, OSError:
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(lock(settings.run_dir))
        report.step("PostgreSQL")
        platform = await stack.enter_async_context(Platform.open(settings))
        report.step("control plane")
        await stack.enter_async_context(
            child.kept(
                "wrenn-cp",
                [sys.executable, "-m", "wrenn_server.controlplane.main"],
                env=control_plane_environment(settings, platform.database_url),
                directory=settings.run_dir,
                log=settings.logs_dir / "wrenn-cp.log",
                ready_timeout=READY_TIMEOUT,
                on_exit=lambda code: log.warning(
                    "program ended", action="child_exit", name="wrenn-cp", code=code
                ),
            )
        )
        environment.write(settings.env_file, await platform.variables())
        report.step("host agent")
        token = await platform.registration_token()
        await stack.enter_async_context(
            child.kept(
                "wrenn-agent",
                agent_command(settings, token),
                env=agent_environment(settings),
                directory=settings.run_dir,
                log=settings.logs_dir / "wrenn-agent.log",
                ready_timeout=READY_TIMEOUT,
                on_exit=lambda code: log.warning(
                    "program ended", action="child_exit", name="wrenn-agent", code=code
                ),
            )
        )
        report.step("template `minimal`")
        host = await platform.prepare_templates()
        started = {"base_url": settings.base_url, "vmm": host.vmm, "accelerated": host.accelerated}
        (settings.run_dir / "started.json").write_text(json.dumps(started))
        report.ready()
        log.info("serving", action="up", listen=settings.listen)
        mode = await stop
        log.info("stopping", action="down", mode=mode)
        await platform.drain(mode)


def agent_command(settings: Settings, token: str | None) -> list[str]:
    command = [sys.executable, "-m", "wrenn_server.hostagent.main", "--address", settings.agent_listen]
    return [*command, "--register", token] if token else command


def control_plane_environment(settings: Settings, database_url: str) -> dict[str, str]:
    environment = {
        "DATABASE_URL": database_url,
        "CP_LISTEN_ADDR": settings.listen,
        "CP_PROXY_DOMAIN": settings.proxy_domain,
        "WRENN_DATA_DIR": os.fspath(settings.data_dir),
    }
    for name, value in {
        "CP_TLS_CERT": settings.tls_cert,
        "CP_TLS_KEY": settings.tls_key,
        "CP_TLS_LISTEN_ADDR": settings.tls_listen,
    }.items():
        if value is not None:
            environment[name] = os.fspath(value)
    return environment


def agent_environment(settings: Settings) -> dict[str, str]:
    return {
        "WRENN_DATA_DIR": os.fspath(settings.data_dir),
        "AGENT_CP_URL": settings.base_url,
        "AGENT_LISTEN_ADDR": settings.agent_listen,
        "AGENT_KERNEL_PATH": os.fspath(settings.data_dir / "kernels/vmlinux"),
        "AGENT_IMAGES_PATH": os.fspath(settings.data_dir / "images"),
        "AGENT_SANDBOXES_PATH": os.fspath(settings.data_dir / "sandboxes"),
        "AGENT_TOKEN_FILE": os.fspath(settings.data_dir / "host-token"),
        "AGENT_VMM": settings.vmm,
        "AGENT_NETWORK": settings.network,
        "AGENT_UID_BASE": str(settings.uid_base),
        "AGENT_WARM": str(settings.warm),
        "AGENT_SPARES": str(settings.spares),
        "AGENT_OBJECT_STORE": settings.object_store or "",
        **agent_config.credentials(os.environ),
    }


@contextlib.contextmanager
def lock(run_dir: Path) -> Generator[None, None, None]:
    """One supervisor a data directory; the file holds its pid for `wrenn down`."""
    descriptor = os.open(run_dir / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(
                f"something already runs in {run_dir.parent}; `wrenn down` stops it"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def running_pid(run_dir: Path) -> int | None:
    """The pid of the supervisor that holds the lock, if one lives."""
    try:
        descriptor = os.open(run_dir / "supervisor.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(descriptor)


def main() -> None:
    """`python -m wrenn_server.up.supervisor`: settings as JSON in argv[1], the report's descriptor in argv[2]."""
    given = json.loads(sys.argv[1])
    settings = settings_module.parse(given)
    logs.set_up("wrenn-up")
    with os.fdopen(int(sys.argv[2]), "w", buffering=1) as pipe:
        report = Report(pipe.write)
        try:
            asyncio.run(_until_signal(settings, report))
        except Exception as error:  # whatever it is, the person who waits for us must hear of it
            log.error("could not go on", action="up_failed", exc_info=error)
            report.error(str(error) or type(error).__name__)
            sys.exit(1)


async def _until_signal(settings: Settings, report: Report) -> None:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[str] = loop.create_future()

    def asked(mode: str) -> None:
        if not stop.done():
            stop.set_result(mode)

    loop.add_signal_handler(signal.SIGTERM, asked, "pause")
    loop.add_signal_handler(PURGE, asked, "kill")
    await supervise(settings, report, stop)


if __name__ == "__main__":
    main()
