"""A sealed directory: a saved VM that is complete, durable, and provably what was saved.

```
<name>/manifest.json      written last, so a directory without it is worthless
<name>/memory/            what `Vm.snapshot` wrote; without it the disk alone was saved
<name>/overlay.ext4
<name>/overlay.json       instead of that: what is in it, as long as it is in the object store alone
<name>.new/               being made, or left by an agent that died
```
Every part is hashed whole, guest memory and disks too, but for their holes: see docs/durability.md for what that costs.
The hash is no signature: who can write here can write the manifest, too. It finds what a disk, a bus or a mistake did.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import xxhash

from wrenn_server.hostagent.storage import chunks
from wrenn_server.hostagent.storage.chunks import Content
from wrenn_server.hostagent.storage.paths import OVERLAY
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Internal

MEMORY, MANIFEST, NEW, LAZY = "memory", "manifest.json", ".new", "overlay.json"
VERSION = 3
_MANIFEST_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Saved:
    """What a VM can be brought to life from. Nothing in it is ever written."""

    memory: Path | None
    """For `Driver.restore`. None: it boots."""
    overlay: Path
    image: Path
    """Root file system under the overlay."""
    lazy: Content | None = None
    """Of the overlay, which is not there but in the object store."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    size: int
    xxh3: str
    """128 bits over the chunks that are not all zeroes, each after its number, so that holes may come and go."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    version: int = VERSION
    image: str
    """Absolute path of the pinned root file system."""
    parts: dict[str, Part]
    """By path inside the directory."""


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    """The file: a flipped bit in the name of a field, or in a path, would still decode."""

    manifest: msgspec.Raw
    xxh3: str
    """128 bits over `manifest` as it stands in the file."""

    @classmethod
    def of(cls, manifest: Manifest) -> "_Written":
        encoded = msgspec.json.encode(manifest)
        return cls(manifest=msgspec.Raw(encoded), xxh3=xxhash.xxh3_128_hexdigest(encoded))

    def read(self) -> Manifest:
        """:raises msgspec.ValidationError: not what was written"""
        if xxhash.xxh3_128_hexdigest(self.manifest) != self.xxh3:
            raise msgspec.ValidationError("it is not what its own hash says")
        return msgspec.json.decode(self.manifest, type=Manifest)


def new_name(final: Path) -> Path:
    """Where a sealed directory is made."""
    return final.with_name(final.name + NEW)


def begin(final: Path, *, memory: bool = True) -> Path:
    """An empty directory, with an empty `memory/` in it if that is wanted, to be given to `seal` or removed.

    :raises OSError:"""
    new = new_name(final)
    files.remove(new)
    final.parent.mkdir(mode=0o700, exist_ok=True)
    new.mkdir(mode=0o700)
    if memory:
        (new / MEMORY).mkdir(mode=0o700)
    return new


def seal(new: Path, final: Path, image: Path) -> Manifest:
    """Makes everything in `new` durable, then gives it its final name. Blocks until it is on the disk.

    :raises OSError: `final` is as it was"""
    with ThreadPoolExecutor(1) as beside:
        hashed = beside.submit(_parts, new)  # the disk is waited for anyway
        files.fsync_tree(new)
        parts = hashed.result()
    crash_point("seal.synced")
    manifest = Manifest(image=os.fspath(image), parts=parts)
    files.write_durably(new / MANIFEST, msgspec.json.encode(_Written.of(manifest)))
    crash_point("seal.manifest_written")
    files.remove(final)
    new.rename(final)
    crash_point("seal.renamed")
    files.fsync_directory(final.parent)
    files.fsync_directory(final.parent.parent)
    return manifest


def is_sealed(directory: Path) -> bool:
    return (directory / MANIFEST).is_file()


def read(directory: Path) -> Manifest:
    """:raises Internal: `snapshot_missing` or `snapshot_damaged`"""
    try:
        with (directory / MANIFEST).open("rb") as file:
            manifest = msgspec.json.decode(file.read(_MANIFEST_LIMIT), type=_Written).read()
    except FileNotFoundError:
        raise Internal("the snapshot is missing or was never finished", code="snapshot_missing") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Internal("the snapshot's manifest cannot be read", code="snapshot_damaged") from error
    if manifest.version != VERSION:
        raise Internal(f"the snapshot has format {manifest.version}, not {VERSION}", code="snapshot_damaged")
    return manifest


def verify(directory: Path) -> Saved:
    """Proves that the files are those that were sealed, to the last bit. Blocks while all of their data is read.

    :raises Internal: `snapshot_missing` or `snapshot_damaged`; the message names the file"""
    manifest = read(directory)
    for name, wanted in manifest.parts.items():
        try:
            found = _part(directory / name)
        except OSError as error:
            message = f"the snapshot's {name} cannot be read: {error.strerror}"
            raise Internal(message, code="snapshot_damaged") from error
        if found.size != wanted.size:
            message = f"the snapshot's {name} has {found.size} bytes instead of {wanted.size}"
            raise Internal(message, code="snapshot_damaged")
        if found != wanted:
            raise Internal(f"the snapshot's {name} is not what was saved", code="snapshot_damaged")
    saved = saved_in(directory, Path(manifest.image))
    return replace(saved, lazy=_lazy(directory)) if LAZY in manifest.parts else saved


def _lazy(directory: Path) -> Content:
    try:
        return Content.read(directory / LAZY)
    except OSError as error:
        raise Internal(f"the snapshot's {LAZY} cannot be read", code="snapshot_damaged") from error


def saved_in(directory: Path, image: Path) -> Saved:
    memory = directory / MEMORY
    return Saved(memory=memory if memory.is_dir() else None, overlay=directory / OVERLAY, image=image)


def remove(directory: Path) -> None:
    """Durably, and never by halves: after a crash it is whole, gone, or something that `sweep` removes. Idempotent.

    :raises OSError:"""
    doomed = new_name(directory)
    files.remove(doomed)
    with contextlib.suppress(FileNotFoundError):
        directory.rename(doomed)
        crash_point("delete.renamed")
        files.fsync_directory(directory.parent)
        files.remove(doomed)


def pins(directories: Iterable[Path]) -> list[Path]:
    """Images that sealed ones of these lie on. What is damaged names none: a start from it will say so."""
    found: list[Path] = []
    for directory in directories:
        with contextlib.suppress(Internal):
            found.append(Path(read(directory).image))
    return found


def sweep(parent: Path) -> None:
    """Removes what was never finished. Called when nobody is making anything."""
    with contextlib.suppress(FileNotFoundError):
        for entry in parent.iterdir():
            if entry.name.endswith(NEW) or not (entry.name.startswith(".") or is_sealed(entry)):
                files.remove(entry)


def _plain_files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if path.is_symlink() or not path.is_file():
                raise OSError(f"{path} does not belong into a snapshot")
            yield path


def _parts(directory: Path) -> dict[str, Part]:
    return {str(path.relative_to(directory)): _part(path) for path in _plain_files(directory)}


def _part(path: Path) -> Part:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        return Part(size=size, xxh3=_hash(descriptor, size))
    finally:
        os.close(descriptor)


def _hash(descriptor: int, size: int) -> str:
    digest = xxhash.xxh3_128()
    for number in chunks.with_data(descriptor):
        data = chunks.read(descriptor, number)
        if len(data) != min(chunks.CHUNK, size - number * chunks.CHUNK):
            raise OSError(errno.EIO, "it cannot be read to its end")
        if not chunks.is_empty(data):
            digest.update(number.to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()
