"""What a virtual machine monitor must do for us. Two drivers: `firecracker.py` and `qemu.py`.

A VM process outlives the agent: it has its own session, cgroup and uid. Leaving a `Vm`'s context therefore ends
the VM only when nobody called `detach()`; an agent that stops detaches, and the next one calls `Driver.adopt`.
"""

from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wrenn_server.model.sandbox import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """The machine: equal for a template and everything restored from it."""

    vcpus: int
    memory_mb: int
    kernel: Path
    initrd: Path
    root_image: Path
    """ext4, read-only drive 0, shared by all VMs of the template."""
    overlay: Path
    """ext4, read-write drive 1, of this VM alone, owned by `Place.uid`."""
    lazy: bool = False
    """The overlay is still being filled: an NBD server at `disk_socket` has it, until `Vm.settle`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where on the host one VM lives."""

    id: str
    """Sandbox id or another name of `[a-z0-9-]{1,64}`."""
    directory: Path
    """Made by the caller, 0700, for sockets and the VMM's own files. Emptied by the driver when the VM ends."""
    uid: int
    gid: int
    netns: Path
    """`/run/netns/<name>`."""
    tap: str
    """Name of the persistent TAP inside the namespace, owned by `uid`."""
    cgroup: str
    """Relative cgroup path, e.g. `wrenn-1a2b/sb…`; made and removed by the driver through linux/cgroup."""


def disk_socket(place: Place) -> Path:
    """The socket of an NBD server; its directory lets nobody but the VM's user look for it by name."""
    return place.directory / "disk" / "nbd"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmExit:
    """How a VM process ended."""

    reason: Reason
    detail: str
    console: str
    """Last lines of the guest's console, at most 4 KiB, printable."""


class Vm(Protocol):
    """One VM process. Calls are serialised by the task that owns the sandbox."""

    @property
    def pid(self) -> int: ...

    def record(self) -> dict[str, Any]:
        """JSON-able facts for the journal, from which `Driver.adopt` finds this VM again (pid, start time, …)."""
        ...

    async def pause(self) -> None:
        """Stops the vCPUs. Idempotent."""
        ...

    async def resume(self) -> None:
        """Lets the vCPUs run. Idempotent."""
        ...

    async def settle(self, overlay: Path) -> None:
        """From now on the VM uses the file, which has all that the NBD server has, and not that server. Idempotent.

        :raises VmmError: the VM goes on with the server
        """
        ...

    async def snapshot(self, directory: Path) -> None:
        """Writes memory and device state of the paused VM into `directory` (exists, empty, same file system as
        the sandboxes), fsynced, with `vmm.json` (driver, version, format, sizes) last. The VM stays paused and can
        be resumed. On any error the directory is worthless, and the VM is still paused.

        :raises VmmError: the VMM refused; :raises OSError: ENOSPC and such.
        """
        ...

    async def kill(self) -> None:
        """SIGKILL by pidfd, then waits for the end. Idempotent."""
        ...

    async def wait(self) -> VmExit:
        """Returns when the VM process has ended, by whatever cause. May be awaited by several tasks."""
        ...

    async def console(self) -> str:
        """Last lines of the guest's console."""
        ...

    def detach(self) -> None:
        """From now on leaving the context leaves the VM running."""
        ...


class Vmm(Protocol):
    """A VMM process that waits for a VM."""

    async def load(self, spec: VmSpec, snapshot: Path) -> Vm:
        """The VM of the snapshot, running, in this process: it ends with the context of the VMM.

        :raises VmmError: the snapshot is another one's, or does not fit; the VMM is good for nothing then.
        """
        ...

    async def wait(self) -> VmExit:
        """As `Vm.wait`."""
        ...


class Ahead(Protocol):
    """VMMs that are started before anybody knows for which VM."""

    def kind(self, spec: VmSpec, snapshot: Path) -> Hashable:
        """Equal for all VMs that one such VMM could become.

        :raises OSError: there is no such snapshot
        """
        ...

    def start(self, spec: VmSpec, place: Place, snapshot: Path) -> AbstractAsyncContextManager[Vmm]:
        """For VMs of the kind of this one; the disks of `spec` need not exist yet.

        :raises VmmError:
        """
        ...


class Driver(Protocol):
    name: str
    lazy: bool
    """Whether it can restore a VM whose `VmSpec` says so."""

    @property
    def ahead(self) -> Ahead | None:
        """None: its VMMs start so fast that it would gain nothing."""
        ...

    async def version(self) -> str:
        """Of the VMM binary, e.g. `1.12.1`.

        :raises VmmError: the binary is missing or unusable; the message says where it was looked for.
        """
        ...

    def boot(self, spec: VmSpec, place: Place, *, template: bool = False) -> AbstractAsyncContextManager[Vm]:
        """Cold boot. `template=True`: guest memory is laid out so that `snapshot` gives the form that many VMs
        can restore from copy-on-write."""
        ...

    def restore(self, spec: VmSpec, place: Place, snapshot: Path) -> AbstractAsyncContextManager[Vm]:
        """A new, running VM from what `Vm.snapshot` wrote. Snapshots of a template are shared copy-on-write by all
        VMs restored from them; the files of the snapshot are never written."""
        ...

    def adopt(self, spec: VmSpec, place: Place, record: dict[str, Any]) -> AbstractAsyncContextManager[Vm]:
        """Takes over a VM that an earlier agent process left running.

        :raises VmGone: no such process lives any more.
        """
        ...


class VmmError(Exception):
    """The VMM refused or failed; the message says what was asked of which VM and what it answered."""


class VmGone(VmmError):
    """The VM process does not exist any more."""
