"""`vmm.json`: what a snapshot directory holds and which VMM can load it. Written last, so a directory without it is
worthless."""

import os
from enum import StrEnum
from pathlib import Path

import msgspec

NAME = "vmm.json"
_SIZE_LIMIT = 1 << 20


class ManifestError(Exception):
    """The snapshot is incomplete or belongs to another VMM or machine; the message says what differs."""


class Format(StrEnum):
    TEMPLATE = "template"
    """`state` (devices) and `memory` (sparse, guest memory): many VMs map the memory copy-on-write."""
    STREAM = "stream"
    """`state` alone, with the memory inside."""


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    driver: str
    version: str
    """Of the VMM binary, exactly."""
    format: Format
    machine: list[str]
    """Everything about the virtual hardware that must be equal at a restore."""
    sizes: dict[str, int]
    """File name to bytes."""

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


def _write_synced(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
