"""What is saved of a running VM by its owner: pauses, and the checkpoints that forks and snapshots are made of."""

from pathlib import Path

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from wrenn_server.hostagent.sandbox import recipe
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.interrupt import Interrupts
from wrenn_server.hostagent.sandbox.journal import unbroken
from wrenn_server.hostagent.sandbox.messages import Checkpoint, Interrupted
from wrenn_server.hostagent.sandbox.recipe import Box
from wrenn_server.hostagent.sandbox.record import Record
from wrenn_server.hostagent.storage.paths import OVERLAY
from wrenn_server.hostagent.storage.sealed import MEMORY
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import WrennError
from wrenn_server.model.sandbox import State

ARRIVAL = 20.0
"""Seconds that whoever wants to save a sandbox waits for a disk that is on its way."""


class Saving:
    """One per sandbox, for its owner alone."""

    def __init__(self, host: Host, record: Record, interrupts: Interrupts, log: FilteringBoundLogger) -> None:
        self._host = host
        self._record = record
        self._interrupts = interrupts
        self._log = log

    async def pause(self, box: Box, *, memory: bool) -> None:
        """On return its snapshot is complete on disk and the journal says so; the VM has only to be ended.

        When it fails, the VM runs on and the journal says that."""
        await self.settle(box)
        with self._host.quiet.broken():
            await self._pause(box, memory=memory)

    async def _pause(self, box: Box, *, memory: bool) -> None:
        running = self._record.entry
        await self._record.write(replace(running, state=State.PAUSING))
        crash_point("pause.intent_written")
        saving = self._host.files.snapshots.saving(
            running.id,
            running.generation,
            memory_mb=running.memory_mb if memory else None,
            image=Path(running.image or ""),
        )
        steps = recipe.Steps()
        complaint = None
        try:
            if not memory:
                complaint = await self._flush(box)
                steps.done("flush")
                crash_point("pause.flushed")
            await box.vm.pause()
            steps.done("stop")
            crash_point("pause.stopped")
            async with saving as directory:
                steps.done("room")
                crash_point("pause.begun")
                if memory:
                    async with self._interrupts.breakable():
                        await box.vm.snapshot(directory / MEMORY)
                    steps.done("memory")
                    crash_point("pause.memory_written")
            steps.done("seal")
            crash_point("pause.saved")
        except BaseException:
            await self._continue(box)
            await self._record.note(running)
            raise
        self._log.info("paused", action="paused", memory=memory, **steps.milliseconds)
        # The snapshot is complete: whoever reads the journal now finds it paused, whether or not it says so.
        paused = self._record.paused(running.generation, memory=memory)
        await self._record.note(replace(paused, message=complaint))
        crash_point("pause.recorded")

    async def checkpoint(self, box: Box, checkpoint: Checkpoint) -> None:
        """The VM runs on, whether it succeeds or not."""
        await self.settle(box)
        if not checkpoint.memory:
            checkpoint.complaint = await self._flush(box)
        with self._host.quiet.broken():
            await self._copy(box, checkpoint)

    async def _copy(self, box: Box, checkpoint: Checkpoint) -> None:
        directory = checkpoint.into
        async with self._interrupts.breakable():
            try:
                await box.vm.pause()
                crash_point("checkpoint.stopped")
                copy = self._host.files.overlays.clone(box.overlay, directory / OVERLAY, owner=0)
                if checkpoint.memory:
                    await recipe.both(box.vm.snapshot(directory / MEMORY), unbroken(copy))
                else:
                    await unbroken(copy)
                checkpoint.of = self._record.entry
                crash_point("checkpoint.written")
            finally:
                await self._continue(box)
        crash_point("checkpoint.continued")

    async def arrived(self, box: Box) -> None:
        """Nothing of its disk is on its way any more. When that is of no use, it runs on with what serves its disk, and
        the next pause or the next agent tries again."""
        try:
            await self.settle(box)
        except Interrupted:
            pass  # whoever kills it is next
        except (VmmError, OSError, WrennError) as error:
            self._log.error("a disk is not settled", action="settle_failed", error=str(error))

    async def settle(self, box: Box) -> None:
        """A disk that is still on its way is waited for, and is the VM's own then; what is saved is whole.

        :raises Unavailable: `disk_arriving`; :raises Internal: `snapshot_damaged`; :raises VmmError:"""
        if box.lazy is None:
            return
        async with self._interrupts.breakable():
            await box.lazy.until_whole(ARRIVAL)
            crash_point("lazy.whole")
            await box.vm.settle(box.overlay)
        crash_point("lazy.settled")
        await box.lazy.forget()
        box.lazy = None
        self._log.info("the disk is whole", action="settled")

    async def _flush(self, box: Box) -> str | None:
        entry = self._record.entry
        async with self._interrupts.breakable():
            return await recipe.flushed(self._host, box.slot, entry, entry.access_token)

    async def _continue(self, box: Box) -> None:
        """Lets a stopped VM run on; that it cannot because it has ended will be told by its watcher."""
        try:
            await box.vm.resume()
        except (VmmError, OSError) as error:
            self._log.error("a stopped VM does not run on", action="resume_failed", error=str(error))
