"""Root file systems: `<images>/<template>.ext4`. Made elsewhere, replaced by rename, never changed in place."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.hostagent.storage.paths import is_template_name
from wrenn_server.linux import files

SUFFIX = ".ext4"


@dataclass(frozen=True, slots=True)
class Images:
    folder: Path
    pinned: Path

    def names(self) -> list[str]:
        """Templates that this host has, sorted."""
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:
            return []
        stems = (entry.name.removesuffix(SUFFIX) for entry in entries if entry.name.endswith(SUFFIX))
        return sorted(name for name in stems if self.find(name) is not None)

    def find(self, template: str) -> Path | None:
        """The root file system of a template, or None for whatever is not the name of one. A link counts only when
        it leads to another file of this folder."""
        if not is_template_name(template):
            return None
        try:
            folder, path = self.folder.resolve(), (self.folder / (template + SUFFIX)).resolve(strict=True)
        except (OSError, RuntimeError):  # missing, or a loop of links
            return None
        return path if path.parent == folder and path.is_file() else None

    def pin(self, image: Path) -> Path:
        """A name for the present content of an image, which stays when the image is replaced: the disk under a
        paused sandbox or a template's memory must never change. Idempotent.

        :raises OSError: the image is gone, or the folder is read-only"""
        self.pinned.mkdir(parents=True, exist_ok=True)
        while True:
            before = image.stat()
            target = self.pinned / _pinned_name(image.name.removesuffix(SUFFIX), before)
            try:
                os.link(image, target)
            except FileExistsError:
                if self.is_pinned(target):
                    return target
                files.remove(target)  # an inode number used a second time, for something else
                continue
            if self.is_pinned(target):
                return target
            target.unlink()  # replaced between looking and linking

    def adopt(self, new: Path, template: str) -> Path:
        """Pins a file in the folder of the pinned ones, which then has its name from its content.

        :raises OSError:"""
        os.utime(new)  # what an inode number of before was the name of, this is not
        files.fsync_file(new)
        target = self.pinned / _pinned_name(template, new.stat())
        new.rename(target)
        files.fsync_directory(self.pinned)
        return target

    def is_pinned(self, pinned: Path) -> bool:
        """Whether a pinned image is there, with the content that it was pinned with."""
        try:
            status = pinned.lstat()
        except OSError:
            return False
        return pinned.parent == self.pinned and pinned.name.endswith(_pinned_name("", status))

    def unpin(self, keep: Iterable[Path]) -> None:
        """Drops every pin but these."""
        kept = {path.name for path in keep}
        for entry in list(self.pinned.iterdir()) if self.pinned.is_dir() else []:
            if entry.name not in kept:
                files.remove(entry)


def identity(path: Path) -> str:
    """Of the content of an image or kernel, as far as the file system tells: these files are only ever replaced.

    :raises OSError:"""
    return _identity(path.stat())


def _identity(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _pinned_name(stem: str, status: os.stat_result) -> str:
    return f"{stem}-{_identity(status)}{SUFFIX}"
