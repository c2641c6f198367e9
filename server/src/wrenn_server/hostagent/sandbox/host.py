"""What the sandboxes of one host share: the VMM, slots, files, journal, and the ways to guests."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wrenn_server.hostagent.guest.client import Guest
from wrenn_server.hostagent.network.base import TAP, Slot, SlotPool
from wrenn_server.hostagent.sandbox.activity import Used
from wrenn_server.hostagent.sandbox.clock import Clock
from wrenn_server.hostagent.sandbox.files import Files
from wrenn_server.hostagent.sandbox.journal import Entry, Journal
from wrenn_server.hostagent.sandbox.quiet import Quiet
from wrenn_server.hostagent.sandbox.uploads import Uploads
from wrenn_server.hostagent.vmm.base import Driver, Place, VmSpec
from wrenn_server.model.errors import Unavailable


class Strays(Protocol):
    """Control groups, as linux/cgroup.Cgroups has them: the way to VMs that have no owner."""

    def children(self, path: str) -> list[str]: ...

    async def remove(self, path: str) -> None:
        """Ends all of its processes first. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    driver: Driver
    slots: SlotPool
    files: Files
    journal: Journal
    guest: Guest
    clock: Clock
    cgroup: str
    """Parent of the sandboxes' cgroups, `wrenn-<tag>`."""
    strays: Strays
    starts: asyncio.Semaphore
    """How many VMs may be on their way up at once: more would only delay one another."""
    changed: Callable[[Entry], None]
    """Called after every change of a sandbox; must be quick."""
    uploads: Uploads | None = None
    """None: there is no object store."""
    quiet: Quiet = field(default_factory=Quiet)
    used: Used

    async def chunk(self, name: str) -> bytes:
        """See `storage.lazy.Fetch`."""
        if self.uploads is None:
            raise Unavailable("this host has no object store any more", code="no_object_store")
        return await self.uploads.store.chunk(name)

    def spec(self, entry: Entry, overlay: Path, *, lazy: bool = False) -> VmSpec:
        return VmSpec(
            vcpus=entry.vcpus,
            memory_mb=entry.memory_mb,
            kernel=self.files.paths.kernel,
            initrd=self.files.paths.initrd,
            root_image=Path(entry.image or "/"),
            overlay=overlay,
            lazy=lazy,
        )

    def place(self, id: str, slot: Slot, directory: Path) -> Place:
        return Place(
            id=id,
            directory=directory,
            uid=slot.uid,
            gid=slot.uid,
            netns=slot.netns,
            tap=TAP,
            cgroup=f"{self.cgroup}/{id}",
        )
