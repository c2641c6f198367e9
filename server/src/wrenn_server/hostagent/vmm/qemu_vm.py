"""One running QEMU."""

import asyncio
import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wrenn_server.hostagent.vmm.base import Place, VmmError
from wrenn_server.hostagent.vmm.console import Tail
from wrenn_server.hostagent.vmm.disk import copy_sparse, create, require_space
from wrenn_server.hostagent.vmm.manifest import Format, Manifest
from wrenn_server.hostagent.vmm.qemu_command import MEMORY, Memory
from wrenn_server.hostagent.vmm.qmp import Qmp, QmpClosed
from wrenn_server.hostagent.vmm.running import RunningVm
from wrenn_server.linux.cgroup import Cgroup
from wrenn_server.linux.process import Process

_START_TIMEOUT = 30.0
"""Seconds until QEMU accepts commands; 25 ms on an idle machine."""
_MOVE_TIMEOUT = 60.0
"""Seconds for any state, plus what 20 MB/s need for the memory."""
_UNLIMITED = 1 << 40
"""Bytes per second; QEMU's default throttles a migration to a file like one over a network."""
_HEADROOM = 16 << 20
"""Bytes of disk space beside the memory itself."""


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
        memory: Memory,
        memory_mb: int,
        machine: list[str],
        version: str,
    ) -> None:
        super().__init__(place, process, cgroup, console, log)
        self._monitor = monitor
        self._memory = memory
        self._memory_mb = memory_mb
        self._machine = machine
        self._version = version
        self._shutdown: str | None = None
        self._move: asyncio.Future[str] | None = None
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
            await self._monitor.close()

    def record(self) -> dict[str, Any]:
        return {
            "driver": "qemu",
            "version": self._version,
            "pid": self._process.pid,
            "started": self._process.started,
            "memory": str(self._memory),
        }

    def shutdown_cause(self) -> str | None:
        return self._shutdown

    async def pause(self) -> None:
        await self._monitor.execute("stop")

    async def resume(self) -> None:
        await self._monitor.execute("cont")

    async def load(self, state: int) -> None:
        """Loads a migration stream and lets the VM run.

        :raises VmmError: the state does not fit; QEMU has ended then.
        """
        try:
            await self._migrate("migrate-incoming", state)
            await self.resume()
        except QmpClosed as error:
            raise await self.ended_early("loading the snapshot", error) from error

    async def snapshot(self, directory: Path) -> None:
        form = Format.TEMPLATE if self._memory is Memory.SHARED else Format.STREAM
        require_space(directory, (self._memory_mb << 20) + _HEADROOM)
        files = ["state"]
        state = create(directory / "state")
        try:
            await self._migrate("migrate", state)
            await asyncio.to_thread(os.fsync, state)
        except VmmError as error:
            require_space(directory, 1 << 20)  # a full disk is told as such
            if isinstance(error, QmpClosed):
                raise await self.ended_early("writing the snapshot", error) from error
            raise
        finally:
            os.close(state)
        if form is Format.TEMPLATE:
            files.append("memory")
            await asyncio.to_thread(_copy_memory, self.pid, directory / "memory")
        manifest = Manifest(
            driver="qemu",
            version=self._version,
            format=form,
            machine=self._machine,
            sizes={name: (directory / name).lstat().st_size for name in files},
        )
        await asyncio.to_thread(manifest.write, directory)

    async def _migrate(self, command: str, state: int) -> None:
        """One move of the VM's state out of or into QEMU. The commands are sent in one go; QEMU keeps the order.

        Without `x-ignore-shared` the memory is in the stream; with it, only what is not shared with us.
        """
        if self._move is not None:
            raise VmmError(f"{self.place.id}: another {command} is under way")
        self._move = asyncio.get_running_loop().create_future()
        ignore_shared = self._memory is not Memory.ANONYMOUS and not (
            self._memory is Memory.PRIVATE and command == "migrate"
        )
        capabilities = [
            {"capability": "events", "state": True},
            {"capability": "x-ignore-shared", "state": ignore_shared},
        ]
        try:
            answers = [
                self._monitor.start("migrate-set-capabilities", {"capabilities": capabilities}),
                self._monitor.start("migrate-set-parameters", {"max-bandwidth": _UNLIMITED}),
                self._monitor.start("getfd", {"fdname": "state"}, fds=[state]),
                self._monitor.start(command, {"uri": "fd:state"}),
            ]
            async with asyncio.timeout(_MOVE_TIMEOUT + self._memory_mb / 20):
                for answer in await asyncio.gather(*answers, return_exceptions=True):
                    if isinstance(answer, BaseException):
                        raise answer
                await self._moved(command)
        except TimeoutError as error:
            raise VmmError(f"{self.place.id}: {command}: no end in sight") from error
        finally:
            self._move = None

    async def _moved(self, command: str) -> None:
        assert self._move is not None  # noqa: S101 - set by the only caller
        ended = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({self._move, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if not self._move.done():
            raise QmpClosed(f"{command}: QEMU has ended")
        if self._move.result() != "completed":
            status = await self._monitor.execute("query-migrate")
            reason = str(status.get("error-desc", self._move.result()))[:500]
            raise VmmError(f"{self.place.id}: {command}: {reason}")

    def _event(self, name: str, data: dict[str, Any]) -> None:
        if name == "SHUTDOWN":
            self._shutdown = str(data.get("reason"))[:100]
            return
        ended = name == "MIGRATION" and data.get("status") in {"completed", "failed", "cancelled"}
        if ended and self._move is not None and not self._move.done():
            self._move.set_result(str(data["status"]))


def _copy_memory(pid: int, path: Path) -> None:
    # QEMU keeps the inherited descriptor; through /proc it is there for an agent that was restarted, too.
    source = os.open(f"/proc/{pid}/fd/{MEMORY}", os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, source)
        target = create(path)
        stack.callback(os.close, target)
        copy_sparse(source, target)
        os.fsync(target)
