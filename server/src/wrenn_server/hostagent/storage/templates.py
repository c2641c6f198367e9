"""Memory snapshots of booted templates, one for each shape: `templates/<key>/`, sealed."""

import hashlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.hostagent.storage import sealed
from wrenn_server.hostagent.storage.images import Images, identity
from wrenn_server.hostagent.storage.paths import OVERLAY
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Internal


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A template's snapshot that is not finished. Left without an error, it is there under its key."""

    directory: Path

    @property
    def memory(self) -> Path:
        """Exists, empty, for `Vm.snapshot`."""
        return self.directory / sealed.MEMORY

    @property
    def overlay(self) -> Path:
        """Does not exist yet."""
        return self.directory / OVERLAY


def key(
    *,
    template: str,
    vcpus: int,
    memory_mb: int,
    disk_mb: int,
    files: Iterable[Path],
    driver: str,
    version: str,
) -> str:
    """Changes with everything that a memory snapshot depends on, so that an old one is never used again.

    :param files: image, kernel and initrd: rebuilt ones make a new key
    :raises OSError: one of them is missing"""
    parts = [driver, version, *map(identity, files)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"{template}-{vcpus}-{memory_mb}-{disk_mb}-{digest}"


@dataclass(frozen=True, slots=True)
class Templates:
    folder: Path
    images: Images

    def keys(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if sealed.is_sealed(path))

    async def find(self, key: str) -> Saved | None:
        """What was made under that key, proven whole, with its image still there."""
        directory = self.folder / key
        if not sealed.is_sealed(directory):
            return None
        try:
            saved = await to_its_end(sealed.verify, directory)
        except Internal:
            return None  # made again, which costs a boot
        return saved if self.images.is_pinned(saved.image) else None

    @asynccontextmanager
    async def making(self, key: str, image: Path) -> AsyncGenerator[Making]:
        """:param image: pinned
        :raises OSError: it could not be made durable; nothing is left behind"""
        final = self.folder / key
        new = sealed.begin(final)
        crash_point("template.begun")
        try:
            yield Making(directory=new)
            await to_its_end(sealed.seal, new, final, image)
        except BaseException:
            await to_its_end(files.remove, new)
            raise

    def pins(self) -> list[Path]:
        """Images that the templates lie on."""
        return sealed.pins(self.folder / key for key in self.keys())

    def sweep(self) -> None:
        """Removes what is half-made, and templates whose image is gone: no key will ever ask for them again."""
        sealed.sweep(self.folder)
        for key in self.keys():
            try:
                usable = self.images.is_pinned(Path(sealed.read(self.folder / key).image))
            except Internal:
                usable = False
            if not usable:
                files.remove(self.folder / key)
