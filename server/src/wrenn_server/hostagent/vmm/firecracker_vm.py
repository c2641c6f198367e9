"""One running Firecracker."""

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.hostagent.vmm.console import Tail
from wrenn_server.hostagent.vmm.firecracker_api import ApiClosed, FirecrackerApi
from wrenn_server.hostagent.vmm.jailer import MEMORY_OUT, STATE_OUT, Jail
from wrenn_server.hostagent.vmm.manifest import Manifest
from wrenn_server.hostagent.vmm.running import RunningVm
from wrenn_server.linux.cgroup import Cgroup
from wrenn_server.linux.files import copy, require_space
from wrenn_server.linux.process import Process

_SNAPSHOT_TIMEOUT = 60.0
"""Seconds for any snapshot, plus what 20 MB/s need for the memory."""
_HEADROOM = 16 << 20


class FirecrackerVm(RunningVm):
    def __init__(
        self,
        jail: Jail,
        process: Process,
        cgroup: Cgroup,
        console: Tail,
        log: Tail,
        api: FirecrackerApi,
        *,
        memory_mb: int,
        machine: list[str],
        version: str,
        base: int | None,
    ) -> None:
        """:param base: open memory file against which Firecracker tracks changes; owned by the VM from now on."""
        super().__init__(jail.place, process, cgroup, console, log)
        self.api = api
        self._jail = jail
        self._memory_mb = memory_mb
        self._machine = machine
        self._version = version
        self._base = base

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._set_base(None)
            await self.api.close()

    def clean(self) -> None:
        self._jail.remove()

    def record(self) -> dict[str, Any]:
        return {
            "driver": "firecracker",
            "version": self._version,
            "binary": os.fspath(self._jail.binary),
            "pid": self._process.pid,
            "started": self._process.started,
        }

    async def pause(self) -> None:
        await self._patch("Paused")

    async def resume(self) -> None:
        await self._patch("Resumed")

    async def settle(self, overlay: Path) -> None:
        raise VmmError(f"{self.place.id}: Firecracker's disk is {overlay.name} from the beginning")

    async def _patch(self, state: str) -> None:
        try:
            await self.api.patch("/vm", {"state": state})
        except ApiClosed as error:
            raise await self.ended_early(f"to {state}", error) from error

    async def snapshot(self, directory: Path) -> None:
        """Diff where a base is known: Firecracker writes what has changed onto a copy of it, which then is complete.
        A Full snapshot writes (and faults in) all of the memory."""
        require_space(directory, (self._memory_mb << 20) + _HEADROOM, "a memory snapshot")
        base, self._base = self._base, None  # tracking starts anew with each snapshot, also with a failed one
        try:
            if base is not None:
                await asyncio.to_thread(self._copy_base, base)
            await self.api.put(
                "/snapshot/create",
                {
                    "snapshot_type": "Full" if base is None else "Diff",
                    "snapshot_path": STATE_OUT,
                    "mem_file_path": MEMORY_OUT,
                },
                timeout=_SNAPSHOT_TIMEOUT + self._memory_mb / 20,
            )
            await asyncio.to_thread(self._collect, directory)
        except ApiClosed as error:
            raise await self.ended_early("writing the snapshot", error) from error
        except VmmError:
            require_space(directory, 1 << 20, "a memory snapshot")  # a full disk is told as such
            raise
        finally:
            if base is not None:
                os.close(base)
            for leftover in (STATE_OUT, MEMORY_OUT):
                self._jail.discard(leftover)
        self._set_base(os.open(directory / "memory", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))

    def _copy_base(self, base: int) -> None:
        target = self._jail.create(MEMORY_OUT)
        try:
            copy(base, target)
        finally:
            os.close(target)

    def _collect(self, directory: Path) -> None:
        self._jail.take(MEMORY_OUT, directory / "memory")
        self._jail.take(STATE_OUT, directory / "state")
        manifest = Manifest.describe(
            directory,
            ("memory", "state"),
            driver="firecracker",
            version=self._version,
            machine=self._machine,
        )
        if manifest.sizes["memory"] != self._memory_mb << 20:
            # Firecracker itself would load it as long as it is not too short.
            raise VmmError(f"{self.place.id}: a memory file of {manifest.sizes['memory']} bytes")
        manifest.write(directory)

    def _set_base(self, base: int | None) -> None:
        if self._base is not None:
            os.close(self._base)
        self._base = base
