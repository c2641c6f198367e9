"""envd as a process of this machine, as fast as it is: what an emulated guest is too slow to ask of it."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from support.vm_places import Guest
from support.watching import CHURN, watched
from wrenn_server.hostagent.simulated_held import Envd, start_envd

EVENTS_PER_SECOND = 10_000
ENVD_MEMORY_KB = 100 * 1024


class Native(Guest):
    """On loopback, without a VM."""

    def __init__(self, envd: Envd) -> None:
        super().__init__(Path("/proc/self/ns/net"))
        self._port = envd.port

    def connect(self, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout)


@contextlib.contextmanager
def health_watch(guest: Guest) -> Generator[list[float]]:
    """Seconds of each answer of `/health`, asked for all the while over connections of their own."""
    seconds: list[float] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.wait(0.05):
            began = time.monotonic()
            guest.request("GET", "/health")
            seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        yield seconds
    finally:
        stop.set()
        thread.join()


async def churn(folder: Path) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHURN, os.fspath(folder), stdout=asyncio.subprocess.PIPE
    )
    return float((await process.communicate())[0])


async def test_ten_thousand_watch_events_a_second(
    envd_binary: Path, tmp_path: Path, record_property: Any
) -> None:
    envd = await start_envd(envd_binary)
    try:
        guest = Native(envd)
        init = json.dumps({"accessToken": guest.token, "defaultUser": "root"}).encode()
        await asyncio.to_thread(guest.request, "POST", "/init", init, {"Content-Type": "application/json"})
        with health_watch(guest) as seconds:
            rate, told = await watched(guest, os.fspath(tmp_path), churn(tmp_path))
        status = Path(f"/proc/{envd.process.pid}/status").read_text()
        [peak] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    finally:
        envd.process.kill()
        await envd.process.wait()
    print(f"{rate:.0f} events/s; {told}; health: worst {max(seconds):.3f} s of {len(seconds)}; {peak} KiB")
    record_property("worst_health_seconds", round(max(seconds), 3))
    assert rate > 0.95 * EVENTS_PER_SECOND
    told.holds()
    assert len(seconds) > 20
    assert max(seconds) < 1.0
    assert peak < ENVD_MEMORY_KB
