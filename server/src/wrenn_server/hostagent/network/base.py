"""A slot: one prepared network namespace in which one VM lives. Same inside of all of them, so that memory
snapshots need no new addresses; different on the host side.
"""

import socket
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrenn_server.wire.agent import Network

GUEST_ADDRESS = "169.254.0.21"
GATEWAY_ADDRESS = "169.254.0.22"
GUEST_MAC = "06:00:ac:10:00:02"
GATEWAY_MAC = "06:00:ac:10:00:fe"
TAP = "vmtap0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    index: int
    """0…; also gives the VM's uid: uid base + index."""
    name: str
    """Name of the namespace: `wrenn-<tag>-<index>`."""
    uid: int
    veth: str
    """Host end: `wr<tag>v<index>`."""

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / self.name


class Egress(Protocol):
    """What one sandbox may reach, while somebody enforces it."""

    async def apply(self, network: Network) -> None:
        """Replaces the rules as a whole, without a moment between the old ones and the new ones. When it returns,
        connections that are no longer allowed are cut; the others go on. A cancelled call is still finished.

        :raises InvalidRequest: a rule cannot be understood; nothing was done
        :raises Internal: the kernel refused; the old rules stay in force"""
        ...


class SlotPool(Protocol):
    """Prepared namespaces, refilled in the background. An async context manager; entering prepares the host-wide
    rules and the first slots and removes leftovers that carry our tag and are not kept; leaving keeps what is in use.
    """

    async def acquire(self) -> Slot:
        """A prepared slot, nobody else's.

        :raises Unavailable: no more slots (`AGENT_SLOTS`)."""
        ...

    async def release(self, slot: Slot) -> None:
        """Deletes the namespace and everything in it; a fresh one takes its place. Idempotent."""
        ...

    def adopt(self, index: int) -> Slot:
        """The slot of a VM that an earlier agent process left running. Called before the pool is entered
        for every index of the journal, so that entering does not take it for a leftover."""
        ...

    async def connect(self, slot: Slot, port: int, timeout: float) -> socket.socket:
        """A non-blocking TCP socket (TCP_NODELAY), created inside the namespace and connected to the guest's port.

        :raises ConnectionRefusedError, TimeoutError, OSError"""
        ...

    def enforcing(self, slot: Slot, network: Network) -> AbstractAsyncContextManager[Egress]:
        """Entered before the VM runs: then the rules are in force. Costs nothing for a fresh slot and the default.

        Leaving ends what serves names (sockets, tasks, connections through the proxy) and keeps the rules of the
        kernel: while nobody enforces, names are closed. For an adopted slot entering brings the rules up to date and
        opens nothing meanwhile.

        :raises InvalidRequest: a rule cannot be understood; :raises Internal: the kernel refused"""
        ...
