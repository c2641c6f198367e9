"""A slot: one prepared network namespace in which one VM lives. Same inside of all of them, so that memory
snapshots need no new addresses; different on the host side.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
