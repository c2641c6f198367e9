"""Readiness between a program and whoever started it: the `sd_notify` protocol.

Source: sd_notify(3): a datagram `READY=1` to the unix socket named by `$NOTIFY_SOCKET`. systemd's `Type=notify`
units and our own supervisor both listen for it, so nobody has to poll a port.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path


def ready() -> None:
    """Tells the supervisor, if there is one, that this program now serves."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        # A supervisor that is gone is no reason for the program to fail.
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(b"READY=1")


class Listener:
    def __init__(self, path: Path, receiver: socket.socket) -> None:
        self.path = path
        self._receiver = receiver

    async def wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message = await loop.sock_recv(self._receiver, 4096)
            if b"READY=1" in message.splitlines():
                return


@contextlib.asynccontextmanager
async def listener(path: Path) -> AsyncGenerator[Listener, None]:
    """A socket at `path` for one child's `NOTIFY_SOCKET`."""
    path.unlink(missing_ok=True)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        receiver.setblocking(False)
        receiver.bind(os.fspath(path))
        path.chmod(0o600)
        yield Listener(path, receiver)
    finally:
        receiver.close()
        path.unlink(missing_ok=True)
