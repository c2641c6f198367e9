"""`vmm.json`: what a snapshot directory holds and which VMM can load it. Written last, so a directory without it is
worthless.

Beside it: `state` (devices, the VMM's own format), `memory` (sparse, guest memory; with QEMU often a hard link to the
memory of the template), and with QEMU `changes` (what differs from `memory`, see linux/memory.py)."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

NAME, STATE = "vmm.json", "state"
_SIZE_LIMIT = 1 << 20


class ManifestError(Exception):
    """The snapshot is incomplete or belongs to another VMM or machine; the message says what differs."""


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    driver: str
    version: str
    """Of the VMM binary, exactly."""
    machine: list[str]
    """Everything about the virtual hardware that must be equal at a restore."""
    sizes: dict[str, int]
    """File name to bytes."""
    state_sha256: str
    """Of `state`, which a VMM loads without noticing every damage. Memory is too big to be read for each restore."""

    @classmethod
    def describe(
        cls, directory: Path, files: Sequence[str], *, driver: str, version: str, machine: list[str]
    ) -> "Manifest":
        """The manifest of a directory that is complete but for it."""
        return cls(
            driver=driver,
            version=version,
            machine=machine,
            sizes={name: (directory / name).lstat().st_size for name in files},
            state_sha256=_sha256(directory / STATE),
        )

    def write(self, directory: Path) -> None:
        """Writes the manifest and makes it and the directory durable."""
        _write_synced(directory / NAME, msgspec.json.format(msgspec.json.encode(self)))
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """:raises ManifestError: it is missing or damaged, or a file is missing or has another size."""
        try:
            with (directory / NAME).open("rb") as file:
                manifest = msgspec.json.decode(file.read(_SIZE_LIMIT), type=cls)
        except FileNotFoundError as error:
            raise ManifestError(f"it has no {NAME}, so it was never finished") from error
        except msgspec.DecodeError as error:
            raise ManifestError(f"its {NAME} is damaged: {error}") from error
        for name, size in manifest.sizes.items():
            try:
                found = (directory / name).lstat().st_size
            except FileNotFoundError as error:
                raise ManifestError(f"its file {name} is missing") from error
            if found != size:
                raise ManifestError(f"its file {name} has {found} bytes instead of {size}")
        if _sha256(directory / STATE) != manifest.state_sha256:
            raise ManifestError(f"its file {STATE} is damaged")
        return manifest

    def check(self, *, driver: str, version: str, machine: list[str]) -> None:
        """:raises ManifestError: another driver, version or machine would have to load it."""
        if self.driver != driver:
            raise ManifestError(f"it was made by the {self.driver} driver, this is {driver}")
        if self.version != version:
            raise ManifestError(f"it was made by {driver} {self.version}, this is {version}")
        if self.machine != machine:
            gone = [word for word in self.machine if word not in machine]
            new = [word for word in machine if word not in self.machine]
            raise ManifestError(
                f"the machine differs: it has {gone or self.machine}, wanted is {new or machine}"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
