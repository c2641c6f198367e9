"""The lasting files of the sandboxes of one host: overlays, snapshots, templates, and what forks pass through.

```
sandboxes/<id>/state.json              the journal
sandboxes/<id>/overlay.ext4            writable disk, while it runs
snapshots/<id>/<generation>/           paused: memory/ (the driver's), overlay.ext4, manifest.json
snapshots/<id>/<generation>/consumed   resumed since: older than what the sandbox has done, never used again
snapshots/fork-<random>/               checkpoint that forks are being started from: memory/, overlay.ext4
templates/<key>/                       booted template: memory/, overlay.ext4, manifest.json
images/.pinned/<name>.ext4             hard link to an image that something here lies on: a new `images/<name>.ext4`
                                       must not change the disk under a paused sandbox
run/<id>/                              sockets of the VMM
```
A directory under snapshots/ or templates/ whose name ends in `.new` is being written, or was when the agent died.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wrenn_server.hostagent.sandbox import disks
from wrenn_server.hostagent.sandbox.journal import FILE as JOURNAL
from wrenn_server.hostagent.sandbox.journal import fsync_directory, write_durably
from wrenn_server.model import ids
from wrenn_server.model.errors import Internal

MEMORY, OVERLAY, MANIFEST, CONSUMED, NEW = "memory", "overlay.ext4", "manifest.json", "consumed", ".new"
PINNED, FORK = ".pinned", "fork-"
TEMPLATE = "tpl-"
"""Begins the names under which templates are booted."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a VM can be restored from. Nothing in it is ever written."""

    memory: Path
    """For `Driver.restore`."""
    overlay: Path
    image: Path
    """Root file system under the overlay."""


class Manifest(msgspec.Struct, kw_only=True):
    """Written last: what a snapshot is, and the proof that it is whole."""

    version: int = 1
    image: str


@dataclass(frozen=True, slots=True)
class Making:
    """A template's snapshot that is not finished."""

    directory: Path

    @property
    def memory(self) -> Path:
        return self.directory / MEMORY

    async def overlay(self, disk_mb: int, owner: int) -> Path:
        """An empty writable disk."""
        path = self.directory / OVERLAY
        await disks.create(path, disk_mb, owner)
        return path


class Files:
    def __init__(self, *, data_dir: Path, sandboxes: Path, images: Path) -> None:
        self.sandboxes = sandboxes
        self.snapshots = data_dir / "snapshots"
        self.templates = data_dir / "templates"
        self.images = images
        self.run = data_dir / "run"

    def prepare(self) -> None:
        """Makes the directories, open to root alone but for the images.

        :raises OSError:"""
        for directory in (self.sandboxes, self.snapshots, self.templates, self.run):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.images / PINNED).mkdir(parents=True, exist_ok=True)

    # Running sandboxes.

    def place(self, id: str) -> Path:
        return self.run / id

    def overlay(self, id: str) -> Path:
        return self.sandboxes / id / OVERLAY

    async def clone_overlay(self, saved: Saved, id: str, owner: int) -> Path:
        """A writable copy for a sandbox, in the place of one that may be there."""
        target = self.overlay(id)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        target.unlink(missing_ok=True)
        await disks.clone(saved.overlay, target, owner)
        return target

    async def drop_overlay(self, id: str) -> None:
        self.overlay(id).unlink(missing_ok=True)

    async def remove(self, id: str, *, keep_journal: bool) -> None:
        """Everything of a sandbox, its journal last or not at all. Idempotent."""
        await asyncio.to_thread(self._remove, id, keep_journal)

    def _remove(self, id: str, keep_journal: bool) -> None:
        _remove_tree(self.snapshots / id)
        _remove_tree(self.run / id)
        directory = self.sandboxes / id
        if not directory.exists():
            return
        for entry in directory.iterdir():
            if entry.name != JOURNAL:
                _remove_tree(entry)
        if not keep_journal:
            _remove_tree(directory)
            fsync_directory(self.sandboxes)

    # Snapshots of paused sandboxes.

    @asynccontextmanager
    async def saving(self, id: str, generation: int, overlay: Path, image: str) -> AsyncGenerator[Path]:
        """A directory for the memory of a stopped VM. Left without an error, the snapshot is complete and durable
        with the overlay in it, and the ones before are gone; otherwise everything is as it was."""
        final = self.snapshots / id / str(generation)
        new = final.with_name(final.name + NEW)
        _remove_tree(new)
        _remove_tree(final)
        (new / MEMORY).mkdir(mode=0o700, parents=True)
        # Its VM is stopped: what the disk is now can go to the platter while the memory is written.
        flushed = asyncio.create_task(asyncio.to_thread(_fsync, overlay))
        try:
            yield new / MEMORY
            await flushed
            await asyncio.to_thread(self._commit, new, final, overlay, image)
        except BaseException:
            flushed.cancel()
            await asyncio.gather(flushed, return_exceptions=True)
            await asyncio.to_thread(self.undo_saving, id, generation)
            raise
        await asyncio.to_thread(self._remove_older, final)

    def _commit(self, new: Path, final: Path, overlay: Path, image: str) -> None:
        disks.move(overlay, new / OVERLAY)
        write_durably(new / MANIFEST, msgspec.json.encode(Manifest(image=image)))
        new.rename(final)
        fsync_directory(final.parent)
        fsync_directory(final.parent.parent)

    def undo_saving(self, id: str, generation: int) -> None:
        """Brings the overlay back from a snapshot that was not finished. Idempotent."""
        new = self.snapshots / id / f"{generation}{NEW}"
        moved = new / OVERLAY
        if moved.exists():
            disks.move(moved, self.overlay(id))
        _remove_tree(new)

    def _remove_older(self, final: Path) -> None:
        for entry in final.parent.iterdir():
            if entry != final:
                _remove_tree(entry)

    def is_saved(self, id: str, generation: int) -> bool:
        directory = self.snapshots / id / str(generation)
        return (directory / MANIFEST).exists() and not (directory / CONSUMED).exists()

    async def saved(self, id: str, generation: int) -> Saved:
        """:raises Internal: it is not there, not whole, or has been resumed before"""
        directory = self.snapshots / id / str(generation)
        if (directory / CONSUMED).exists():
            raise Internal(
                "the sandbox has run since this snapshot was taken; it will not be taken back in time",
                code="snapshot_consumed",
            )
        return self._read(directory)

    async def consume(self, id: str, generation: int) -> None:
        """From now on the snapshot is older than its sandbox."""
        await asyncio.to_thread(write_durably, self.snapshots / id / str(generation) / CONSUMED, b"")

    def _read(self, directory: Path) -> Saved:
        try:
            manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
        except FileNotFoundError:
            raise Internal("the snapshot is missing or was never finished", code="snapshot_missing") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise Internal("the snapshot's manifest cannot be read", code="snapshot_damaged") from error
        image = Path(manifest.image)
        if not _is_pinned(image):
            raise Internal(
                "the root file system under this snapshot has been removed or changed", code="image_changed"
            )
        return Saved(directory / MEMORY, directory / OVERLAY, image)

    # Checkpoints, from which forks are started.

    @asynccontextmanager
    async def checkpointing(self) -> AsyncGenerator[Path]:
        """A directory for one, removed at the end. Not the source's own, which may be killed meanwhile."""
        directory = Path(tempfile.mkdtemp(prefix=FORK, dir=self.snapshots))
        (directory / MEMORY).mkdir(mode=0o700)
        try:
            yield directory
        finally:
            await asyncio.to_thread(_remove_tree, directory)

    def checkpoint(self, directory: Path, image: str) -> Saved:
        return Saved(directory / MEMORY, directory / OVERLAY, Path(image))

    # Templates.

    def image_names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.stem for path in self.images.glob("*.ext4") if path.is_file())
        return []

    def image(self, template: str) -> Path | None:
        """The root file system of a template. Names come from the control plane, so they are looked up, not joined."""
        return self.images / f"{template}.ext4" if template in self.image_names() else None

    def template(self, key: str) -> Saved | None:
        directory = self.templates / key
        return self._read(directory) if (directory / MANIFEST).exists() else None

    @asynccontextmanager
    async def making_template(self, key: str) -> AsyncGenerator[Making]:
        """Left without an error, the template's snapshot is there for `template`."""
        final = self.templates / key
        new = final.with_name(final.name + NEW)
        _remove_tree(new)
        (new / MEMORY).mkdir(mode=0o700, parents=True)
        try:
            yield Making(new)
        except BaseException:
            await asyncio.to_thread(_remove_tree, new)
            raise

    async def finish_template(self, key: str, image: Path) -> Saved:
        await asyncio.to_thread(self._finish_template, key, image)
        return self._read(self.templates / key)

    def _finish_template(self, key: str, image: Path) -> None:
        final = self.templates / key
        new = final.with_name(final.name + NEW)
        _fsync(new / OVERLAY)
        write_durably(new / MANIFEST, msgspec.json.encode(Manifest(image=str(image))))
        _remove_tree(final)
        new.rename(final)
        fsync_directory(self.templates)

    def pin(self, image: Path) -> Path:
        """A name for the present content of an image, which outlives its being replaced. Idempotent.

        :raises OSError:"""
        pinned = self.images / PINNED / _pinned_name(image.stem, image.stat())
        with contextlib.suppress(FileExistsError):
            os.link(image, pinned)
        return pinned

    # After a crash.

    def sweep(self, *, sandboxes: Iterable[str], images: Iterable[str]) -> None:
        """Removes what an agent that died left half-made: everything of ours that belongs to no sandbox, and templates
        and images that nothing lies on any more.

        :param images: pinned images that sandboxes lie on"""
        known = set(sandboxes)
        for parent in (self.sandboxes, self.snapshots, self.run):
            for entry in parent.iterdir():
                if ids.parse_sandbox_id(entry.name) is not None and entry.name not in known:
                    _remove_tree(entry)
        for place in self.run.glob(f"{TEMPLATE}*"):
            _remove_tree(place)
        for checkpoint in self.snapshots.glob(f"{FORK}*"):
            _remove_tree(checkpoint)
        in_use = {Path(image) for image in images}
        for directory in self.templates.iterdir():
            try:
                in_use.add(self._read(directory).image)
            except Internal:
                _remove_tree(directory)
        for pinned in (self.images / PINNED).iterdir():
            if pinned not in in_use:
                pinned.unlink(missing_ok=True)


def _pinned_name(stem: str, stat: os.stat_result) -> str:
    return f"{stem}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}.ext4"


def _is_pinned(image: Path) -> bool:
    """Whether a pinned image still has the content that it was pinned with."""
    try:
        stat = image.stat()
    except OSError:
        return False
    return image.name.endswith(_pinned_name("", stat))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(path: Path) -> None:
    """Whatever it is, without following a link. Idempotent."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass
