"""One running QEMU."""

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from wrenn_server.hostagent.vmm import memory_image
from wrenn_server.hostagent.vmm.base import Place, VmmError, VmSpec
from wrenn_server.hostagent.vmm.console import Tail
from wrenn_server.hostagent.vmm.manifest import Manifest
from wrenn_server.hostagent.vmm.memory_image import Base
from wrenn_server.hostagent.vmm.qemu_command import (
    LAZY_NODE,
    OVERLAY_NODE,
    ROOT_NODE,
    disk_arguments,
    file_node,
    lazy_arguments,
)
from wrenn_server.hostagent.vmm.qmp import Qmp, QmpClosed
from wrenn_server.hostagent.vmm.running import RunningVm
from wrenn_server.linux.cgroup import Cgroup
from wrenn_server.linux.files import create, require_space
from wrenn_server.linux.process import Process

_START_TIMEOUT = 30.0
"""Seconds until QEMU accepts commands; 25 ms on an idle machine."""
_SAVE_TIMEOUT = _LOAD_TIMEOUT = 30.0
"""Seconds for the state of the devices, 200 KB; a few ms on an idle machine."""
_ROOM_RETRY = 1.0
"""Seconds until a guest whose write found the host's disk full tries it again: nobody tells when there is room."""
_STATE_SET, _ROOT_SET, _OVERLAY_SET = range(1000, 1003)
"""Numbers of sets of descriptors that no drive is started with."""
_HEADROOM = 16 << 20
"""Bytes of disk space beside the memory itself."""

_Drive = tuple[list[asyncio.Future[Any]], dict[str, Any]]
"""Answers that are still to come, and what `blockdev-reopen` is to make of a drive then."""

log = structlog.get_logger()


class QemuVm(RunningVm):
    def __init__(
        self,
        place: Place,
        process: Process,
        cgroup: Cgroup,
        console: Tail,
        log: Tail,
        monitor: Qmp,
        *,
        base: Base | None,
        memory_mb: int,
        machine: list[str],
        version: str,
    ) -> None:
        """:param base: what guest memory was restored from, where that is known; outlives the VM."""
        super().__init__(place, process, cgroup, console, log)
        self._monitor = monitor
        self._base = base
        self._memory_mb = memory_mb
        self._machine = machine
        self._version = version
        self._shutdown: str | None = None
        self._move: asyncio.Future[str] | None = None
        self._paused = False
        """By us."""
        self._starved = -math.inf
        """When it last found the disk full, by the loop's clock."""
        self._retry: asyncio.TimerHandle | None = None
        monitor.on_event = self._event

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self._monitor.open()
        except (VmmError, TimeoutError) as error:
            failure = await self.ended_early("starting QEMU", VmmError(str(error) or "no answer"))
            await self.__aexit__(None, None, None)
            raise failure from error
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            if self._retry is not None:
                self._retry.cancel()
            await self._monitor.close()

    def record(self) -> dict[str, Any]:
        return {
            "driver": "qemu",
            "version": self._version,
            "pid": self._process.pid,
            "started": self._process.started,
            "base": self._base.record() if self._base is not None else None,
        }

    def shutdown_cause(self) -> str | None:
        return self._shutdown

    async def pause(self) -> None:
        self._paused = True
        await self._monitor.execute("stop")

    async def resume(self) -> None:
        self._paused = False
        await self._monitor.execute("cont")

    async def attach(self, spec: VmSpec) -> None:
        """Gives its disks to a QEMU that was started without, before it loads anything.

        :raises VmmError:"""
        async with self._telling("attaching its disks"):
            drives = [self._file(ROOT_NODE, spec.root_image, _ROOT_SET, os.O_RDONLY)]
            if spec.lazy:
                file, drive = lazy_arguments()
                drives.append(([self._monitor.start("blockdev-add", file)], drive))
            else:
                drives.append(self._file(OVERLAY_NODE, spec.overlay, _OVERLAY_SET, os.O_RDWR | os.O_NOFOLLOW))
            await self._reopen(drives)

    async def settle(self, overlay: Path) -> None:
        file = file_node(OVERLAY_NODE)
        async with self._telling("settling its disk"):
            found = await self._monitor.execute("query-named-block-nodes", {"flat": True})
            nodes = {str(node.get("node-name")) for node in found}
            if LAZY_NODE in nodes:
                if file in nodes:  # an agent died while it did this
                    await self._monitor.execute("blockdev-reopen", {"options": [lazy_arguments()[1]]})
                    await self._monitor.execute("blockdev-del", {"node-name": file})
                await self._reopen(
                    [self._file(OVERLAY_NODE, overlay, _OVERLAY_SET, os.O_RDWR | os.O_NOFOLLOW)]
                )
                await self._monitor.execute("blockdev-del", {"node-name": LAZY_NODE})

    def _file(self, node: str, path: Path, number: int, flags: int) -> "_Drive":
        fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            added = self._monitor.start("add-fd", {"fdset-id": number}, fds=[fd])
        finally:
            os.close(fd)
        file, drive = disk_arguments(node, number, read_only=flags & os.O_ACCMODE == os.O_RDONLY)
        return [added, self._monitor.start("blockdev-add", file)], drive

    async def _reopen(self, drives: list["_Drive"]) -> None:
        answers = [answer for added, _ in drives for answer in added]
        answers.append(self._monitor.start("blockdev-reopen", {"options": [drive for _, drive in drives]}))
        async with asyncio.timeout(_LOAD_TIMEOUT):
            await asyncio.gather(*answers)

    async def load(self, snapshot: Path) -> None:
        """Brings the state of a snapshot into a fresh QEMU that waits for it, and lets the VM run.

        :raises VmmError: the state does not fit; QEMU has ended then.
        """
        state = os.open(snapshot / "state", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._move = asyncio.get_running_loop().create_future()
        try:
            async with self._telling("loading the snapshot"):
                if (snapshot / memory_image.CHANGES).exists():
                    # Before the devices: virtio reads its rings while it is loaded.
                    await asyncio.to_thread(memory_image.apply, self.pid, snapshot)
                events = [{"capability": "events", "state": True}]
                answers = [
                    self._monitor.start("migrate-set-capabilities", {"capabilities": events}),
                    self._monitor.start("getfd", {"fdname": "state"}, fds=[state]),
                    self._monitor.start("migrate-incoming", {"uri": "fd:state"}),
                ]
                async with asyncio.timeout(_LOAD_TIMEOUT):
                    await asyncio.gather(*answers)
                    # What was saved says that the VM runs, so it does as soon as it is loaded.
                    await self._moved()
        finally:
            self._move = None
            os.close(state)

    @contextlib.asynccontextmanager
    async def _telling(self, doing: str) -> AsyncGenerator[None]:
        """:raises VmmError: what failed, said of what was being done"""
        try:
            yield
        except TimeoutError as error:
            raise VmmError(f"{self.place.id}: {doing}: no end in sight") from error
        except QmpClosed as error:
            raise await self.ended_early(doing, error) from error
        except OSError as error:
            raise VmmError(f"{self.place.id}: {doing}: {error}") from error

    async def snapshot(self, directory: Path) -> None:
        """QEMU writes the devices, we write the memory: a migration would read all of it, and could not tell what is
        the template's."""
        if (await self._monitor.execute("query-status")).get("running") is not False:
            raise VmmError(f"{self.place.id}: a snapshot of a running VM was asked for")
        needed = memory_image.needed(self.pid, directory, self._memory_mb, self._base)
        require_space(directory, needed + _HEADROOM, "a memory snapshot")
        try:
            await self._save_devices(directory / "state")
            files = await asyncio.to_thread(memory_image.write, self.pid, directory, self._base)
        except QmpClosed as error:
            raise await self.ended_early("writing the snapshot", error) from error
        except VmmError:
            require_space(directory, _HEADROOM, "a memory snapshot")  # a full disk is told as such
            raise
        await asyncio.to_thread(self._seal, directory, ["state", *files])

    def _seal(self, directory: Path, files: list[str]) -> None:
        manifest = Manifest.describe(
            directory, files, driver="qemu", version=self._version, machine=self._machine
        )
        manifest.write(directory)

    async def _save_devices(self, path: Path) -> None:
        """`xen-save-devices-state` has nothing of Xen but its name: the stream of a migration without the memory."""
        state = create(path)
        try:
            # QEMU takes a descriptor out of a set only if it was opened exactly as QEMU would open the file.
            write_only = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                answers = [
                    self._monitor.start("add-fd", {"fdset-id": _STATE_SET}, fds=[write_only]),
                    self._monitor.start(
                        "xen-save-devices-state", {"filename": f"/dev/fdset/{_STATE_SET}", "live": False}
                    ),
                    self._monitor.start("remove-fd", {"fdset-id": _STATE_SET}),
                ]
            finally:
                os.close(write_only)
            async with asyncio.timeout(_SAVE_TIMEOUT):
                for answer in await asyncio.gather(*answers, return_exceptions=True):
                    if isinstance(answer, BaseException):
                        raise answer
            await asyncio.to_thread(os.fsync, state)
        except TimeoutError as error:
            raise VmmError(f"{self.place.id}: QEMU does not finish its state") from error
        finally:
            os.close(state)

    async def _moved(self) -> None:
        assert self._move is not None  # noqa: S101 - set by the only caller
        ended = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({self._move, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if not self._move.done() or self._move.result() != "completed":
            raise QmpClosed("QEMU ends after a load that failed")

    def _event(self, name: str, data: dict[str, Any]) -> None:
        if name == "SHUTDOWN":
            self._shutdown = str(data.get("reason"))[:100]
            return
        if name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            self._wait_for_room()
            return
        ended = name == "MIGRATION" and data.get("status") in {"completed", "failed", "cancelled"}
        if ended and self._move is not None and not self._move.done():
            self._move.set_result(str(data["status"]))

    def _wait_for_room(self) -> None:
        """QEMU has stopped the guest instead of telling it that its disk is broken; going on, it writes again what it could
        not, and stops again if it still cannot."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._starved > 10 * _ROOM_RETRY:
            log.warning("the disk is full: a guest waits for room", action="disk_full", name=self.place.id)
        self._starved = loop.time()
        if self._retry is not None:
            self._retry.cancel()
        self._retry = loop.call_later(_ROOM_RETRY, self._go_on)

    def _go_on(self) -> None:
        if not self._paused:
            answer = self._monitor.start("cont")
            answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
