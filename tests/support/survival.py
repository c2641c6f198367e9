"""Watching whether a guest goes on answering while it is treated badly; and long answers of it, read as they come."""

import base64
import contextlib
import http.client
import json
import socket
import struct
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.vm_places import Guest
from wrenn_server.hostagent.network.base import GUEST_ADDRESS
from wrenn_server.linux import netns

INTERVAL = 0.1
"""Seconds between two questions."""
PATIENCE = 60.0
"""Seconds after which a question is given up."""


class ClosableGuest(Guest):
    """A guest whose connections end with it: a VM that is killed resets none, and whoever reads would wait on."""

    def __init__(self, namespace: Path) -> None:
        super().__init__(namespace)
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def connect(self, timeout: float) -> socket.socket:
        connected = super().connect(timeout)
        self._open.add(connected)
        return connected

    def close(self) -> None:
        for connected in list(self._open):
            shut_down(connected)


def shut_down(connected: socket.socket) -> None:
    """Also wakes whoever reads."""
    with contextlib.suppress(OSError):  # it is closed already
        connected.shutdown(socket.SHUT_RDWR)


class HealthWatch:
    """How long `/health` took to be answered, each time over a connection of its own. A refused connection is asked
    again, so a restart of envd counts as the time until it answers."""

    def __init__(self, vmm_pid: int) -> None:
        self._vmm_pid = vmm_pid
        self.seconds: list[float] = []
        """Of each answer, without the time that the VM's threads waited for a CPU of a busy host."""

    @property
    def worst(self) -> float:
        return max(self.seconds)

    def ask(self) -> None:
        began, before = time.monotonic(), threads(self._vmm_pid)
        while not self._answered():
            if time.monotonic() - began > PATIENCE:
                break
            time.sleep(0.01)  # there is no event that crosses the boundary of a VM
        took = time.monotonic() - began
        after = threads(self._vmm_pid)
        held_up = max(
            (after[id].waiting - before[id].waiting for id in before.keys() & after.keys()), default=0.0
        )
        self.seconds.append(took - held_up)

    @staticmethod
    def _answered() -> bool:
        connection = http.client.HTTPConnection(GUEST_ADDRESS, 49983, timeout=PATIENCE)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            return connection.getresponse().status == 204
        return False


@dataclass(frozen=True)
class Ran:
    """Seconds that a thread ran, and that it was ready and did not run (Documentation/scheduler/sched-stats.rst)."""

    running: float
    waiting: float


def threads(pid: int) -> dict[str, Ran]:
    """All of a process so far, by their ids."""
    found: dict[str, Ran] = {}
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            running, waiting, _ = map(int, file.read_text().split())
            found[file.parent.name] = Ran(running / 1e9, waiting / 1e9)
    return found


def share(before: dict[str, Ran], after: dict[str, Ran]) -> float:
    """Of the time that the busiest thread would have run, the part that it did: below 1 on a busy host."""
    nothing = Ran(0, 0)
    spent = [
        Ran(now.running - was.running, now.waiting - was.waiting)
        for was, now in ((before.get(thread, nothing), now) for thread, now in after.items())
    ]
    busiest = max(spent, key=lambda one: one.running)
    return busiest.running / (busiest.running + busiest.waiting)


@contextlib.contextmanager
def health_watch(namespace: Path, vmm_pid: int) -> Generator[HealthWatch]:
    """Asks all the while, from inside the sandbox's network namespace. The last answer is waited for, unless the body
    fails."""
    watch, stop = HealthWatch(vmm_pid), threading.Event()

    def keep_asking() -> None:
        netns.enter(namespace)
        watch.ask()
        while not stop.wait(INTERVAL):
            watch.ask()

    thread = threading.Thread(target=keep_asking, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
    thread.join()


class Messages:
    """The messages of one streaming answer, in Connect's JSON form, while they come."""

    def __init__(
        self, guest: Guest, path: str, message: dict[str, Any], *, user: str = "user", timeout: float = 120.0
    ) -> None:
        self._connection = http.client.HTTPConnection(GUEST_ADDRESS)
        self._connection.sock = guest.connect(timeout)
        body = json.dumps(message).encode()
        headers = {
            "X-Access-Token": guest.token,
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
            "Authorization": "Basic " + base64.b64encode(f"{user}:".encode()).decode(),
        }
        self._connection.request("POST", path, struct.pack(">BI", 0, len(body)) + body, headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self.error: dict[str, Any] | None = None
        """Once the stream has ended: what it ended with, other than well."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            flags, length = struct.unpack(">BI", self._exactly(5))
            message = json.loads(self._exactly(length))
            if flags & 2:
                self.error = message.get("error")
                return
            yield message

    def _exactly(self, length: int) -> bytes:
        data = self._answer.read(length)
        assert len(data) == length, "the answer broke off"
        return data

    def end(self) -> None:
        """Nothing more comes: wakes whoever reads in another thread, who shall be done before the close."""
        if self._connection.sock is not None:
            shut_down(self._connection.sock)

    def close(self) -> None:
        self.end()
        self._connection.close()


@contextlib.contextmanager
def started(guest: Guest, command: str, *, user: str = "user", timeout: float = 120.0) -> Generator[Messages]:
    """A shell command as a client starts it; its start event has been read."""
    process = {"cmd": "/bin/bash", "args": ["-c", command]}
    messages = Messages(
        guest, "/process.Process/Start", {"process": process, "stdin": False}, user=user, timeout=timeout
    )
    with contextlib.closing(messages):
        first = next(iter(messages))
        assert "start" in first["event"], first
        yield messages


def output(guest: Guest, command: str, *, user: str = "user", timeout: float = 120.0) -> str:
    """Everything that a shell command writes, both streams."""
    text = b""
    with started(guest, command, user=user, timeout=timeout) as messages:
        for message in messages:
            data = message["event"].get("data", {})
            text += base64.b64decode(data.get("stdout", "") or data.get("stderr", ""))
        assert messages.error is None, messages.error
    return text.decode()
