"""What both drivers have in common: a VM process with its cgroup, its console and its end."""

import asyncio
import contextlib
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from wrenn_server.hostagent.vmm.base import Place, VmExit, VmmError
from wrenn_server.hostagent.vmm.console import Tail, printable
from wrenn_server.hostagent.vmm.exits import Evidence, judge
from wrenn_server.linux.cgroup import Cgroup
from wrenn_server.linux.process import Process


class RunningVm:
    """An async context manager: leaving it ends the VM and removes its traces, unless it was detached."""

    def __init__(self, place: Place, process: Process, cgroup: Cgroup, console: Tail, log: Tail) -> None:
        self.place = place
        self._process = process
        self._cgroup = cgroup
        self._console = console
        self._log = log
        self._killed = False
        self._detached = False
        self._end: asyncio.Task[VmExit] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._end = asyncio.create_task(self._watch(), name=f"vm {self.place.id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._detached:
                await self.kill()
                await self._cgroup.remove()
                self.clean()
        finally:
            if self._end is not None and not self._end.done():
                self._end.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._end
            self._console.close()
            self._log.close()
            self._process.close()

    async def kill(self) -> None:
        if self._end is None or not self._end.done():
            self._killed = True
            self._process.kill()
        await self.wait()

    async def wait(self) -> VmExit:
        if self._end is None:
            raise VmmError(f"{self.place.id}: not entered")
        return await asyncio.shield(self._end)

    async def console(self) -> str:
        return printable(self._console.bytes())

    def detach(self) -> None:
        self._detached = True

    def clean(self) -> None:
        """Removes the VM's files; the process has ended."""
        empty(self.place.directory)

    def shutdown_cause(self) -> str | None:
        """What the VMM said about a regular end, in QMP's words."""
        return None

    async def ended_early(self, doing: str, error: VmmError) -> VmmError:
        """Turns a broken conversation into what broke it: the VMM's last words, when it has ended."""
        try:
            async with asyncio.timeout(1.0):
                end = await self.wait()
        except TimeoutError:
            return VmmError(f"{self.place.id}: {doing}: {error}")
        log = printable(self._log.bytes(), 1000).strip()
        return VmmError(f"{self.place.id}: {doing}: {end.detail}" + (f" [{log}]" if log else ""))

    async def _watch(self) -> VmExit:
        code = await self._process.wait()
        return judge(
            Evidence(
                exit_code=code,
                killed_by_us=self._killed,
                oom_kills=self._cgroup.oom_kills(),
                shutdown=self.shutdown_cause(),
                console=self._console.bytes(),
                log=self._log.bytes(),
            )
        )


def empty(directory: Path) -> None:
    """Removes everything in a directory, never following a link out of it (see shutil.rmtree)."""
    with contextlib.suppress(FileNotFoundError):
        for entry in directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
