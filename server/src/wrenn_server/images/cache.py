"""What builds leave behind: one folder per artefact, named by the hash of everything that went into it.

    <cache>/.lock                     held by the one build that may write
    <cache>/tmp-XXXX/                 a build that is under way, or was when its machine lost power
    <cache>/<kind>/<key>/...          finished artefacts, read-only, never changed again
    <cache>/<kind>/<key>/inputs.json  what the key stands for, for people

An artefact appears by one rename, so what has a name is whole. Of each kind the last few that were used are kept, so
that two checkouts can share a cache; who needs one for longer holds a hard link to its files.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.linux.process import run

KEPT = 2


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something that can be built: its kind (one current artefact each) and everything that it is made from."""

    kind: str
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        """32 hex digits, equal exactly when the inputs are."""
        return hashlib.sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Cache:
    root: Path

    def find(self, artefact: Artefact) -> Path | None:
        """The folder of a finished artefact."""
        folder = self.folder(artefact)
        return folder if folder.is_dir() else None

    def folder(self, artefact: Artefact) -> Path:
        """Where the artefact is once it is finished."""
        return self.root / artefact.kind / artefact.key

    async def get(self, artefact: Artefact, build: Callable[[Path], Awaitable[None]]) -> Path:
        """The folder of the artefact, which `build` fills first if there is none yet. Needs the lock.

        Whatever ends `build`, a cancellation included, leaves nothing of an unfinished artefact.
        """
        if (finished := self.find(artefact)) is not None:
            os.utime(finished)
            return finished
        with self.scratch() as scratch:
            folder = scratch / artefact.key
            folder.mkdir(mode=0o755)
            await build(folder)
            (folder / "inputs.json").write_text(json.dumps(artefact.inputs, indent=1, sort_keys=True) + "\n")
            await asyncio.to_thread(_settle, folder)
            target = self.folder(artefact)
            target.parent.mkdir(exist_ok=True)
            os.utime(folder)
            folder.rename(target)
            _sync_folder(target.parent)
        by_use = sorted(target.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for unused in by_use[KEPT:]:
            shutil.rmtree(unused)
        return target

    @contextlib.contextmanager
    def scratch(self) -> Generator[Path]:
        """A private folder on the cache's file system that is gone at the end."""
        folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.root))
        try:
            yield folder
        finally:
            # A killed tool's children may still be writing here as they die; what they save, the next build removes.
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def lock(self) -> AsyncGenerator[None]:
        """Waits until no other process builds here, then removes what an interrupted build left."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _flock(descriptor)
            for leftover in self.root.glob("tmp-*"):
                shutil.rmtree(leftover)
            yield
        finally:
            os.close(descriptor)


def is_published(source: Path, target: Path) -> bool:
    """Whether `target` is what `publish` makes of `source`."""
    try:
        ours, theirs = source.stat(), target.stat()
    except FileNotFoundError:
        return False
    if ours.st_dev == theirs.st_dev:
        return ours.st_ino == theirs.st_ino
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


async def publish(source: Path, target: Path) -> None:
    """Puts `source` at `target`, at once: a reader sees the old file or the new one. A hard link where one file system
    has both, else a copy."""
    if is_published(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=target.parent) as folder:
        new = Path(folder) / target.name
        try:
            new.hardlink_to(source)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            await run(["cp", "--sparse=always", "--preserve=mode,timestamps", str(source), str(new)])
        new.replace(target)


async def _flock(descriptor: int) -> None:
    """A thread of its own does the waiting: it cannot be cancelled, so it must not be one that exit waits for."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    loop = asyncio.get_running_loop()
    locked = loop.create_future()
    # Its own descriptor of the same open file: the caller may close the other one while the thread still waits.
    own = os.dup(descriptor)

    def tell() -> None:
        if not locked.done():
            locked.set_result(None)

    def wait() -> None:
        try:
            fcntl.flock(own, fcntl.LOCK_EX)
        finally:
            os.close(own)
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who waited
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=wait, name="cache-lock", daemon=True).start()
    await locked


def _settle(folder: Path) -> None:
    """Read-only and on the disk, before the rename that vouches for it."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            path.chmod(0o444)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
