"""A kernel in a dictionary: namespaces and cables by name, with the plans they were made from."""

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from wrenn_server.linux import netlink


class Netlink(netlink.Netlink):
    def __init__(self, *, forwarding: bool = True) -> None:
        self.namespaces: dict[str, netlink.Namespace | None] = {}
        """None: found at the start, made by somebody else."""
        self.cables: set[str] = set()
        self.forwarding = forwarding
        self.fail_next: OSError | None = None
        """Raised by the next create or delete instead of doing it."""

    async def create(self, plan: netlink.Namespace) -> None:
        self._fail()
        if plan.name in self.namespaces or plan.veth.outside in self.cables:
            raise FileExistsError(errno.EEXIST, f"{plan.name} exists")
        self.namespaces[plan.name] = plan
        self.cables.add(plan.veth.outside)

    async def delete(self, names: Sequence[str], links: Sequence[str]) -> None:
        self._fail()
        for name in names:
            self.namespaces.pop(name, None)
        self.cables.difference_update(links)

    async def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.namespaces if name.startswith(prefix))

    async def links(self, prefix: str) -> list[str]:
        return sorted(name for name in self.cables if name.startswith(prefix))

    async def forwards(self) -> bool:
        return self.forwarding

    async def tcp_socket(self, namespace: Path) -> socket.socket:
        return self._socket(namespace, socket.SOCK_STREAM)

    async def udp_socket(self, namespace: Path) -> socket.socket:
        return self._socket(namespace, socket.SOCK_DGRAM)

    def _socket(self, namespace: Path, kind: socket.SocketKind) -> socket.socket:
        if namespace.name not in self.namespaces:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(namespace))
        made = socket.socket(socket.AF_INET, kind)
        made.setblocking(False)
        return made

    def _fail(self) -> None:
        error, self.fail_next = self.fail_next, None
        if error is not None:
            raise error
