"""Programs of ours that are kept running: started again when they die, ended politely when asked."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wrenn_server.linux import notify
from wrenn_server.linux.process import clean_env

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between a death and the next start; doubles with each quick death."""
GRACE = 20.0
"""Seconds between SIGTERM and SIGKILL."""


class ChildFailed(Exception):
    """A program ended before it was ready; the message carries the end of its log."""


@dataclass(slots=True)
class Child:
    """One kept program. Made by `kept`."""

    name: str
    log: Path | None
    on_exit: Callable[[int], None]
    pid: int = 0
    restarts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def kept(
    name: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    directory: Path,
    log: Path | None,
    ready_timeout: float,
    grace: float = GRACE,
    on_exit: Callable[[int], None] = lambda code: None,
) -> AsyncGenerator[Child, None]:
    """Keeps a program running while the context lasts; entered when it said READY=1.

    `directory` holds its notify socket, `log` gets its output (None: it goes where ours goes). `env` is added to a
    clean environment. At the end it gets SIGTERM, and SIGKILL after `grace` seconds.
    :raises ChildFailed: it ended, or was not ready within `ready_timeout` seconds.
    """
    child = Child(name=name, log=log, on_exit=on_exit)
    async with notify.listener(directory / f"{name}.notify") as listener:
        keeper = asyncio.create_task(_keep(child, argv, env, listener, grace), name=f"keep {name}")
        try:
            waiter = asyncio.create_task(child.ready.wait())
            await asyncio.wait({waiter, keeper}, timeout=ready_timeout, return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
            if not child.ready.is_set():
                raise ChildFailed(f"{name} did not become ready{_end_of(log)}")
            yield child
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper


def _end_of(log: Path | None) -> str:
    if log is None or not log.exists():
        return ""
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
    return f"; the end of {log}:\n{tail}"


async def _keep(
    child: Child, argv: Sequence[str], env: Mapping[str, str], listener: notify.Listener, grace: float
) -> None:
    pause = FIRST_PAUSE
    while True:
        with contextlib.ExitStack() as stack:
            output = None if child.log is None else stack.enter_context(child.log.open("ab"))
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_env({**env, "NOTIFY_SOCKET": str(listener.path)}),
                start_new_session=True,
            )
        child.pid = process.pid
        announce = asyncio.create_task(_announce(child, listener))
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _end(process, grace)
            raise
        finally:
            announce.cancel()
        child.on_exit(code)
        if not child.ready.is_set() and not child.restarts:
            return  # never came up: whoever waits wants the log, not another try
        pause = FIRST_PAUSE if child.ready.is_set() else min(pause * 2, LONGEST_PAUSE)
        child.restarts += 1
        child.ready.clear()
        await asyncio.sleep(pause)


async def _announce(child: Child, listener: notify.Listener) -> None:
    await listener.wait_ready()
    child.ready.set()


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
