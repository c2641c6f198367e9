"""The QEMU driver: `-M microvm`, with KVM where it is proven, in software everywhere else.

How a VM starts: one short-lived thread makes its cgroup, opens everything the VM may touch, attaches to the TAP inside
the sandbox's namespace, moves on into an empty namespace and starts QEMU there. QEMU runs as the slot's uid without
capabilities and owns nothing but its inherited descriptors. Under software emulation that is still not a
security boundary (QEMU docs/system/security.rst).
"""

import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wrenn_server.hostagent.vmm import memory_image
from wrenn_server.hostagent.vmm.base import Ahead, Place, VmExit, VmGone, VmmError, VmSpec, disk_socket
from wrenn_server.hostagent.vmm.console import Tail, make_fifo, open_fifo
from wrenn_server.hostagent.vmm.manifest import Manifest, ManifestError
from wrenn_server.hostagent.vmm.memory_image import Base
from wrenn_server.hostagent.vmm.qemu_command import (
    CONSOLE,
    DISK,
    INITRD,
    KERNEL,
    LOG,
    MEMORY,
    MONITOR,
    OVERHEAD_MB,
    OVERLAY,
    ROOT,
    TAP,
    Accel,
    Machine,
    command,
    kernel_args,
    machine_arguments,
)
from wrenn_server.hostagent.vmm.qemu_vm import QemuVm
from wrenn_server.hostagent.vmm.qmp import Qmp
from wrenn_server.hostagent.vmm.running import empty
from wrenn_server.hostagent.vmm.template_memory import TemplateMemory, identity, new_memory
from wrenn_server.linux import kvm, netns
from wrenn_server.linux.cgroup import Cgroup, Cgroups, Limits
from wrenn_server.linux.process import Process, User, confined, run, spawn
from wrenn_server.linux.tsc import tsc_khz
from wrenn_server.linux.unix import short

MIB = 1 << 20
CONSOLE_FIFO, LOG_FIFO, MONITOR_SOCKET = "console", "log", "qmp"
"""In the VM's directory."""
_TURN = 0.05
"""Seconds for which an emulator keeps a processor. Emulators that take turns at every wake-up and every few ms lose what
the caches had for them: ten started at once on two processors took 5.8 s of processor time, this way 4.0 (4.7 one by one),
and a command beside four busy guests 155 ms, this way 71; programs with turns as usual wait no longer than before."""
_NO_DISK = 1 << 20
"""Bytes of what stands for a disk until there is one."""
_PIDS_MAX = 160
"""vCPUs, QEMU's own threads and its block worker pool (up to 64 a drive)."""


class QemuDriver:
    """An async context manager. VMs must be left or detached before the driver is.

    :param template_cache: bytes of template memory to keep at most; what running VMs map comes on top.
    """

    name = "qemu"
    lazy = True

    def __init__(
        self,
        *,
        cgroups: Cgroups,
        accel: Accel = Accel.TCG,
        binary: str = "qemu-system-x86_64",
        template_cache: int = 4 << 30,
    ) -> None:
        self._cgroups = cgroups
        self._accel = accel
        self._binary = binary
        self._templates = TemplateMemory(template_cache)
        self._version: str | None = None
        self._empty_netns = -1
        self._kernel_args = ""
        self._groups: tuple[int, ...] = ()

    async def __aenter__(self) -> Self:
        khz = await netns.in_own_thread(tsc_khz) if self._accel is Accel.TCG else None
        self._kernel_args = kernel_args(self._accel, khz)
        if self._accel is Accel.KVM:
            try:
                self._groups = kvm.group()
            except (kvm.KvmRefused, OSError) as error:
                raise VmmError(f"QEMU cannot use KVM: {error}") from error
        self._empty_netns = await netns.in_own_thread(netns.new)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._templates.close()
        os.close(self._empty_netns)
        self._empty_netns = -1

    @property
    def ahead(self) -> Ahead:
        return self

    async def version(self) -> str:
        if self._version is None:
            try:
                completed = await run([self._binary, "--version"], timeout=10)
            except Exception as error:
                raise VmmError(f"{self._binary} cannot be run: {error}") from error
            words = completed.stdout.decode(errors="replace").splitlines()[0].split()
            if words[:3] != ["QEMU", "emulator", "version"]:
                raise VmmError(f"{self._binary} --version answered {' '.join(words)[:100]!r}")
            self._version = words[3]
        return self._version

    @contextlib.asynccontextmanager
    async def boot(
        self, spec: VmSpec, place: Place, *, template: bool = False
    ) -> AsyncGenerator[QemuVm, None]:
        """Every snapshot is one that many VMs can restore; `template` makes no difference."""
        async with AsyncExitStack() as stack:
            memory = new_memory(spec.memory_mb * MIB)
            stack.callback(os.close, memory)
            yield await stack.enter_async_context(self._process(spec, place, memory, None))

    @contextlib.asynccontextmanager
    async def restore(self, spec: VmSpec, place: Place, snapshot: Path) -> AsyncGenerator[QemuVm, None]:
        self.check(spec, snapshot, await self.version())
        async with self._waiting(spec, place, snapshot, disks=not spec.lazy) as vm:
            if spec.lazy:
                await vm.attach(spec)
            await vm.load(snapshot)
            yield vm

    def kind(self, spec: VmSpec, snapshot: Path) -> Hashable:
        return spec.vcpus, spec.memory_mb, identity(os.stat(snapshot / memory_image.NAME))

    @contextlib.asynccontextmanager
    async def start(self, spec: VmSpec, place: Place, snapshot: Path) -> AsyncGenerator["_Started", None]:
        """It has everything but the disks, which are the one thing that QEMU can be given later."""
        async with self._waiting(spec, place, snapshot, disks=False) as vm:
            yield _Started(self, vm, self.kind(spec, snapshot))

    @contextlib.asynccontextmanager
    async def _waiting(
        self, spec: VmSpec, place: Place, snapshot: Path, *, disks: bool
    ) -> AsyncGenerator[QemuVm, None]:
        """A QEMU with the memory of the snapshot, without its changes, that has not loaded anything."""
        async with AsyncExitStack() as stack:
            try:
                base = Base.open(snapshot / memory_image.NAME)
                stack.callback(base.close)
                sealed = await stack.enter_async_context(self._templates.use(base.path))
            except OSError as error:
                raise VmmError(f"{place.id}: the memory of the snapshot: {error}") from error
            yield await stack.enter_async_context(self._process(spec, place, sealed, base, disks=disks))

    @contextlib.asynccontextmanager
    async def adopt(self, spec: VmSpec, place: Place, record: dict[str, Any]) -> AsyncGenerator[QemuVm, None]:
        started = _Starting(place, self._cgroups.open(place.cgroup))
        try:
            started.process = Process.open(int(record["pid"]), int(record["started"]))
            started.console, started.log = (
                open_fifo(place.directory / name) for name in (CONSOLE_FIFO, LOG_FIFO)
            )
            started.monitor = _connect(place.directory)
            version = str(record["version"])
        except ProcessLookupError as error:
            started.close()
            raise VmGone(f"{place.id}: its QEMU process has ended") from error
        except (KeyError, ValueError, TypeError) as error:
            started.close()
            raise VmmError(
                f"{place.id}: the record in the journal is not one of QEMU's: {error!r}"
            ) from error
        except OSError as error:
            started.close()
            raise VmmError(f"{place.id}: cannot take over its QEMU: {error}") from error
        async with AsyncExitStack() as stack:
            base = Base.find(record.get("base"))
            if base is not None:
                stack.callback(base.close)
            yield await stack.enter_async_context(self._vm(spec, started, base, version))

    def _machine(self, spec: VmSpec) -> Machine:
        return Machine(accel=self._accel, vcpus=spec.vcpus, memory_mb=spec.memory_mb)

    def check(self, spec: VmSpec, snapshot: Path, version: str) -> None:
        """:raises VmmError: this QEMU cannot load that snapshot"""
        try:
            Manifest.read(snapshot).check(
                driver=self.name, version=version, machine=machine_arguments(self._machine(spec))
            )
        except ManifestError as error:
            raise VmmError(f"snapshot {snapshot.name} cannot be restored: {error}") from error

    @contextlib.asynccontextmanager
    async def _process(
        self, spec: VmSpec, place: Place, memory: int, base: Base | None, *, disks: bool = True
    ) -> AsyncGenerator[QemuVm, None]:
        """:param base: what `memory` is the content of, for a VM that is to be loaded; None: it boots.
        :param disks: whether those of `spec` are there already"""
        version = await self.version()
        started = _Starting(place, self._cgroups.open(place.cgroup))
        try:
            await netns.in_own_thread(
                lambda: self._spawn(started, spec, memory, boots=base is None, disks=disks)
            )
        except BaseException as error:
            await started.undo()
            if isinstance(error, OSError):
                raise VmmError(f"{place.id}: starting QEMU: {error}") from error
            raise
        async with self._vm(spec, started, base, version) as vm:
            yield vm

    def _vm(self, spec: VmSpec, started: "_Starting", base: Base | None, version: str) -> QemuVm:
        assert started.process is not None and started.monitor is not None  # noqa: S101, PT018 - both just made
        return QemuVm(
            started.place,
            started.process,
            started.cgroup,
            Tail(started.console),
            Tail(started.log, 16 << 10),
            Qmp(started.monitor),
            base=base,
            memory_mb=spec.memory_mb,
            machine=machine_arguments(self._machine(spec)),
            version=version,
        )

    def _spawn(self, started: "_Starting", spec: VmSpec, memory: int, *, boots: bool, disks: bool) -> None:
        """Everything that blocks, in a thread of its own that changes its namespace twice."""
        place = started.place
        machine = self._machine(spec)
        limits = Limits(
            # Twice: where the template's memfd has a hole, the kernel fills the hole (charged to the first VM that
            # touches it, for good) before it makes the VM's private copy. A guest that uses all its memory must
            # meet its own limits, not ours.
            memory_max=(2 * spec.memory_mb + OVERHEAD_MB[machine.accel]) * MIB,
            pids_max=_PIDS_MAX + spec.vcpus,
            cpus=spec.vcpus + 0.5,
        )
        with contextlib.ExitStack() as stack:

            def opened(path: Path, flags: int) -> int:
                fd = os.open(path, flags | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                return fd

            self._cgroups.create(place.cgroup, limits)
            started.made = True
            started.console = make_fifo(place.directory / CONSOLE_FIFO)
            started.log = make_fifo(place.directory / LOG_FIFO)
            listener = stack.enter_context(_listen(place.directory))
            disk = disk_socket(place)
            disk.parent.mkdir(mode=0o711, exist_ok=True)
            root_image, overlay = spec.root_image, spec.overlay
            if not disks:
                nothing = os.memfd_create("no-disk", os.MFD_CLOEXEC)
                stack.callback(os.close, nothing)
                os.ftruncate(nothing, _NO_DISK)
                root_image = overlay = Path(f"/proc/self/fd/{nothing}")
            fds = {
                CONSOLE: started.console,
                LOG: started.log,
                MONITOR: listener.fileno(),
                ROOT: opened(root_image, os.O_RDONLY),
                OVERLAY: opened(overlay, os.O_RDWR | (os.O_NOFOLLOW if disks else 0)),
                MEMORY: memory,
                DISK: opened(disk.parent, os.O_RDONLY | os.O_DIRECTORY),
            }
            append = None
            if boots:
                append = self._kernel_args
                fds[KERNEL], fds[INITRD] = opened(spec.kernel, os.O_RDONLY), opened(spec.initrd, os.O_RDONLY)
            netns.enter(place.netns)
            fds[TAP] = netns.open_tap(place.tap)
            stack.callback(os.close, fds[TAP])
            netns.enter(self._empty_netns)
            argv = command(self._binary, place.id, machine, append=append)
            user = User(uid=place.uid, gid=place.gid, groups=self._groups)
            started.process = spawn(
                confined(argv, user=user, cgroup=started.cgroup.procs),
                fds=fds,
                turn=_TURN if machine.accel is Accel.TCG else None,
            )
            # The kernel queues the connection and our first command until QEMU gets there: nothing to wait for.
            started.monitor = _connect(place.directory)


@dataclass(frozen=True, slots=True)
class _Started:
    """See `base.Vmm`."""

    driver: QemuDriver
    vm: QemuVm
    kind: Hashable

    async def load(self, spec: VmSpec, snapshot: Path) -> QemuVm:
        self.driver.check(spec, snapshot, await self.driver.version())
        if self.driver.kind(spec, snapshot) != self.kind:
            raise VmmError(
                f"{self.vm.place.id}: its QEMU was started for another memory than that of {snapshot}"
            )
        await self.vm.attach(spec)
        await self.vm.load(snapshot)
        return self.vm

    async def wait(self) -> VmExit:
        return await self.vm.wait()


@dataclass(slots=True)
class _Starting:
    """What exists of a VM before somebody owns it."""

    place: Place
    cgroup: Cgroup
    made: bool = False
    console: int = -1
    log: int = -1
    process: Process | None = None
    monitor: socket.socket | None = None

    def close(self) -> None:
        for fd in (self.console, self.log):
            if fd >= 0:
                os.close(fd)
        if self.monitor is not None:
            self.monitor.close()
        if self.process is not None:
            self.process.close()

    async def undo(self) -> None:
        try:
            if self.process is not None:
                self.process.kill()
                await self.process.wait()
            if self.made:
                await self.cgroup.remove()
                empty(self.place.directory)
        finally:
            self.close()


def _listen(directory: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with short(directory / MONITOR_SOCKET) as path:
            listener.bind(path)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def _connect(directory: Path) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with short(directory / MONITOR_SOCKET) as path:
            connected.connect(path)
    except BaseException:
        connected.close()
        raise
    return connected
