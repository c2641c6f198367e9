"""The lasting files of the sandboxes of one host: each kind by its part of `storage/`, and their common ends."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.hostagent.sandbox.journal import FILE as JOURNAL
from wrenn_server.hostagent.sandbox.journal import unbroken
from wrenn_server.hostagent.storage import lazy, sealed
from wrenn_server.hostagent.storage.images import Images
from wrenn_server.hostagent.storage.named import Named
from wrenn_server.hostagent.storage.overlays import Overlays
from wrenn_server.hostagent.storage.paths import Paths
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.storage.snapshots import Snapshots
from wrenn_server.hostagent.storage.templates import Templates
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model import ids

TEMPLATE = "tpl-"
"""Begins the names under which templates are booted."""


@dataclass(frozen=True, slots=True)
class Files:
    paths: Paths
    images: Images
    overlays: Overlays
    snapshots: Snapshots
    named: Named
    templates: Templates

    @classmethod
    def under(cls, paths: Paths) -> "Files":
        images = Images(paths.images, paths.pinned)
        return cls(
            paths=paths,
            images=images,
            overlays=Overlays(paths.blanks),
            snapshots=Snapshots(paths, images),
            named=Named(paths, images),
            templates=Templates(paths.templates, images),
        )

    async def clone_overlay(self, saved: Saved, id: str, owner: int) -> Path:
        """The writable disk of a sandbox, in the place of one that may be there.

        :raises OSError:"""
        target = self.paths.overlay(id)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        target.unlink(missing_ok=True)
        await unbroken(self.overlays.clone(saved.overlay, target, owner=owner))
        return target

    async def disk_of(self, saved: Saved, id: str, owner: int) -> Path:
        """As `clone_overlay`; an empty file for `LazyDisk`, if what is to be in it is in the object store.

        :raises OSError:"""
        if saved.lazy is None:
            return await self.clone_overlay(saved, id, owner)
        target = self.paths.overlay(id)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        await to_its_end(lazy.prepare, target, self.paths.lazy(id), saved.lazy, owner=owner)
        return target

    async def move_overlay(self, name: str, id: str) -> Path:
        """The disk of a VM that becomes a sandbox, in the place of one that may be there.

        :raises OSError:"""
        target = self.paths.overlay(id)

        def move() -> None:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self.paths.overlay(name).rename(target)
            self.paths.sandbox(name).rmdir()

        await unbroken(asyncio.to_thread(move))
        return target

    def clear(self, id: str) -> None:
        """Removes what a VM that is no more has left, whoever ended it. Its disk was only a copy of a snapshot's.

        :raises OSError:"""
        files.remove(self.paths.overlay(id))
        files.remove(self.paths.lazy(id))
        files.remove(self.paths.place(id))

    async def remove(self, id: str, *, keep_journal: bool) -> None:
        """Everything of a sandbox, its journal last or not at all. Idempotent.

        :raises OSError:"""
        await unbroken(asyncio.to_thread(self._remove, id, keep_journal))

    def _remove(self, id: str, keep_journal: bool) -> None:
        files.remove(self.paths.snapshots / id)
        files.remove(self.paths.place(id))
        directory = self.paths.sandbox(id)
        if not directory.exists():
            return
        for entry in directory.iterdir():
            if entry.name != JOURNAL:
                files.remove(entry)
        crash_point("kill.files_removed")
        if not keep_journal:
            files.remove(directory)
            files.fsync_directory(self.paths.sandboxes)

    def _drop_old_templates(self) -> None:
        """Those of images that have been replaced: no key will ever lead to them again."""
        found = (self.images.find(name) for name in self.images.names())
        current = {self.images.pin(image) for image in found if image is not None}
        for directory in (self.paths.templates / key for key in self.templates.keys()):  # noqa: SIM118 - no mapping
            if Path(sealed.read(directory).image) not in current:
                files.remove(directory)

    def sweep(self, *, known: Iterable[str], places: Iterable[str], images: Iterable[str]) -> None:
        """After a crash: removes what belongs to no sandbox, and templates and pinned images that nothing needs.

        :param known: ids of sandboxes
        :param places: of VMs that run on
        :param images: what the sandboxes' disks lie on, by the journal
        :raises OSError:"""
        known = set(known)
        for parent, kept in ((self.paths.sandboxes, known), (self.paths.run, known | {*places})):
            for entry in parent.iterdir():
                if ids.parse_sandbox_id(entry.name) is not None and entry.name not in kept:
                    files.remove(entry)
        for place in self.paths.run.glob(f"{TEMPLATE}*"):
            files.remove(place)
        self.snapshots.sweep(known)
        self.named.sweep()
        self.templates.sweep()
        self._drop_old_templates()
        pins = [self.snapshots.pins(known), self.named.pins(), self.templates.pins()]
        self.images.unpin([*map(Path, images), *(pin for found in pins for pin in found)])
