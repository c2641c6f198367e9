"""Paused sandboxes: `snapshots/<id>/<generation>/`, sealed, and the checkpoints that forks start from.

```
snapshots/<id>/<generation>/           disk and memory of a paused sandbox
snapshots/<id>/<generation>/consumed   resumed since: older than what the sandbox has done, never used again
snapshots/fork-<random>/               checkpoint of a running sandbox, as long as its forks are being started
```
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.hostagent.storage import sealed
from wrenn_server.hostagent.storage.images import Images
from wrenn_server.hostagent.storage.paths import OVERLAY, Paths
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model import ids
from wrenn_server.model.errors import Internal, Unavailable

CONSUMED, FORK = "consumed", "fork-"
HEADROOM = 64 << 20
"""Bytes left free beside a snapshot: device state, manifests, the journals of everybody else."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    paths: Paths
    images: Images

    @asynccontextmanager
    async def saving(
        self, id: str, generation: int, *, memory_mb: int | None, image: Path
    ) -> AsyncGenerator[Path]:
        """Around a stopped VM: a directory, with an empty `memory/` in it if that is to be kept. Left without an error,
        the snapshot is complete and durable, the sandbox's overlay has moved into it, and older snapshots are gone.
        Otherwise everything is as it was.

        :param memory_mb: None: the disk alone is kept
        :raises Unavailable: `disk_full`, before anything was written; :raises OSError:"""
        final, overlay = self.paths.snapshot(id, generation), self.paths.overlay(id)
        await to_its_end(require_space, self.paths.snapshots, memory_mb or 0)
        new = await to_its_end(sealed.begin, final, memory=memory_mb is not None)
        # Its VM is stopped: what the disk is now can go to the platter while the memory is written.
        flushed = asyncio.create_task(asyncio.to_thread(files.fsync_file, overlay), name=f"flush {id}")
        try:
            yield new
            await flushed
            await to_its_end(_commit, new, final, overlay, image)
            crash_point("pause.sealed")
        except BaseException:
            await asyncio.wait([flushed])
            flushed.exception()  # seen: what broke the pause off is told
            await to_its_end(self.undo_saving, id, generation)
            raise
        await to_its_end(_remove_others, final)

    def undo_saving(self, id: str, generation: int) -> None:
        """Takes a snapshot back that was not finished, its overlay first. Idempotent, also after a crash."""
        final, overlay = self.paths.snapshot(id, generation), self.paths.overlay(id)
        for directory in (sealed.new_name(final), final):  # the last fsync may fail after the renaming
            if (directory / OVERLAY).exists() and not overlay.exists():
                files.move(directory / OVERLAY, overlay)
            files.remove(directory)

    def is_saved(self, id: str, generation: int) -> bool:
        directory = self.paths.snapshot(id, generation)
        return sealed.is_sealed(directory) and not (directory / CONSUMED).exists()

    def has_memory(self, id: str, generation: int) -> bool:
        return (self.paths.snapshot(id, generation) / sealed.MEMORY).is_dir()

    async def saved(self, id: str, generation: int) -> Saved:
        """:raises Internal: `snapshot_missing`, `snapshot_damaged`, `snapshot_consumed`, or `image_changed`"""
        directory = self.paths.snapshot(id, generation)
        if (directory / CONSUMED).exists():
            raise Internal(
                "the sandbox has run since this snapshot was taken; it will not be taken back in time",
                code="snapshot_consumed",
            )
        return await to_its_end(verified, directory, self.images)

    async def consume(self, id: str, generation: int) -> None:
        """From now on the snapshot is older than its sandbox. Durable when it returns."""
        await to_its_end(files.write_durably, self.paths.snapshot(id, generation) / CONSUMED, b"")

    async def remove(self, id: str) -> None:
        """All snapshots of a sandbox. Idempotent."""
        await to_its_end(files.remove, self.paths.snapshots / id)

    @asynccontextmanager
    async def checkpointing(self, *, memory_mb: int) -> AsyncGenerator[Path]:
        """A directory for `memory/` and an overlay, removed at the end. Not the source's own: that may be killed
        meanwhile. It need not survive a power cut, so nothing is sealed.

        :raises Unavailable: `disk_full`"""
        await to_its_end(require_space, self.paths.snapshots, memory_mb)
        directory = Path(tempfile.mkdtemp(prefix=FORK, dir=self.paths.snapshots))
        try:
            (directory / sealed.MEMORY).mkdir(mode=0o700)
            yield directory
        finally:
            await to_its_end(files.remove, directory)

    def pins(self, known: Iterable[str]) -> list[Path]:
        """Images that these sandboxes' snapshots lie on."""
        parents = [self.paths.snapshots / id for id in known]
        return sealed.pins(entry for parent in parents if parent.is_dir() for entry in parent.iterdir())

    def sweep(self, known: Iterable[str]) -> None:
        """After a crash: removes checkpoints, and the snapshots of sandboxes that are not known. What a known one
        left half-made may hold its disk: `undo_saving` is for that."""
        keep = set(known)
        for entry in self.paths.snapshots.iterdir():
            stray = ids.parse_sandbox_id(entry.name) is not None and entry.name not in keep
            if stray or entry.name.startswith(FORK):
                files.remove(entry)


def require_space(directory: Path, memory_mb: int) -> None:
    """:raises Unavailable: `disk_full`, with the numbers"""
    needed, free = (memory_mb << 20) + HEADROOM, files.free_bytes(directory)
    if free < needed:
        raise Unavailable(
            f"saving {memory_mb} MiB of memory needs {needed >> 20} MiB of disk space, {free >> 20} MiB are free",
            code="disk_full",
            hint="remove paused sandboxes or give the host a larger disk",
        )


def verified(directory: Path, images: Images) -> Saved:
    """:raises Internal: `snapshot_missing`, `snapshot_damaged`, or `image_changed`"""
    saved = sealed.verify(directory)
    if not images.is_pinned(saved.image):
        message = "the root file system under this snapshot has been removed or changed"
        raise Internal(message, code="image_changed")
    return saved


def _commit(new: Path, final: Path, overlay: Path, image: Path) -> None:
    files.move(overlay, new / OVERLAY)
    crash_point("pause.overlay_moved")
    sealed.seal(new, final, image)


def _remove_others(final: Path) -> None:
    for entry in final.parent.iterdir():
        if entry != final:
            files.remove(entry)
