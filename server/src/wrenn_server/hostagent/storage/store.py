"""Saved sandboxes and snapshots in the object store, from where every host can fetch them.

```
store-id                          of the store itself
chunks/<2>/<sha256>               see chunks.py
sandboxes/<id>/<generation>.json  manifest of a paused sandbox
named/<snapshot id>.json          manifest of a named snapshot
```
A manifest is written after all its chunks, so what it names is there. It names the root file system under the disk,
too: a host that has another one of the same name fetches it. A manifest holds tokens and variables, as the memory does:
whoever reads the store reads everything.

The collector removes chunks that no manifest names. A chunk that is used again after REFRESH is written again, and
the collector leaves alone what is younger than KEEP: between the two there is time for the slowest upload.
"""

import asyncio
import errno
import os
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog

from wrenn_server.hostagent.storage import chunks, sealed
from wrenn_server.hostagent.storage.chunks import Content
from wrenn_server.hostagent.storage.images import Images
from wrenn_server.hostagent.storage.objects import Objects
from wrenn_server.hostagent.storage.paths import OVERLAY, Paths
from wrenn_server.hostagent.storage.snapshots import HEADROOM
from wrenn_server.hostagent.storage.threads import each, to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Internal, Unavailable

VERSION = 1
MANIFEST_LIMIT = 256 << 20
LAZY_FROM = 16 << 20
"""Bytes of a disk that are fetched so fast that nothing is won by doing without them; see docs/hosts.md."""
AT_ONCE = 3
"""Chunks that are sent, or packed or unpacked, at a time; each takes some 2 MiB of memory."""
FETCHED_AT_ONCE = 8
"""Of those that somebody waits for. A store that answers after 30 ms gives 128 MiB in half the time that three at once take;
to one that answers at once it makes no difference."""
REFRESH, KEEP = 12 * 3600.0, 24 * 3600.0
"""Seconds."""
_CONTENTS, _SEEN = 64, 200_000
_FILE = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,63}(/[a-z0-9_-][a-z0-9._-]{0,63})?")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

log = structlog.get_logger()


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest."""

    version: int = VERSION
    machine: str
    """Of the host that wrote it: memory goes on only where this is the same."""
    template: str
    image: Content
    """Root file system under the disk; `template` is a name for it."""
    files: dict[str, Content]
    """By path inside the sealed directory."""
    shared: list[str] = []
    """Those of the files that several sandboxes have as one, such as a template's memory."""
    journal: dict[str, Any] | None = None
    """Of a sandbox."""


def of_sandbox(id: str, generation: int) -> str:
    return f"sandboxes/{id}/{generation}.json"


def of_snapshot(id: str) -> str:
    return f"named/{id}.json"


_Identity = tuple[int, int, int, int]


async def _at_once() -> None:
    pass


@dataclass(slots=True)
class Store:
    objects: Objects
    paths: Paths
    images: Images
    machine: str = ""
    """Of this host."""
    identity: str = ""
    """Of the store; empty as long as nobody has reached it."""
    turn: Callable[[], Awaitable[None]] = _at_once
    """Waits until the host has nothing more urgent to do."""
    _unpacking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _contents: OrderedDict[_Identity, Content] = field(default_factory=OrderedDict[_Identity, Content])
    """Of files that never change: images, and what is sealed."""
    _seen: OrderedDict[str, float] = field(default_factory=OrderedDict[str, float])
    """When a chunk was last known to be in the store and young."""

    # Upload

    async def upload(
        self, name: str, directory: Path, *, template: str, journal: dict[str, Any] | None = None
    ) -> int:
        """A sealed directory. In the store, durably, when it returns. Returns the bytes that had to be sent.

        :raises Internal: it is damaged; :raises OSError: it is going away; :raises Unavailable:"""
        saved = await to_its_end(sealed.verify, directory)
        parts = (await to_its_end(sealed.read, directory)).parts
        sent = 0
        contents: dict[str, Content] = {}
        shared: list[str] = []
        for part in parts:
            contents[part], count = await self._put(directory / part)
            sent += count
            if (directory / part).lstat().st_nlink > 1:
                shared.append(part)
                await to_its_end(self._keep, directory / part, contents[part])
        image, count = await self._put(saved.image)
        crash_point("upload.chunks_sent")
        manifest = Stored(
            machine=self.machine,
            template=template,
            image=image,
            files=contents,
            shared=shared,
            journal=journal,
        )
        await self.objects.put(name, msgspec.json.encode(manifest))
        return sent + count

    async def _put(self, path: Path) -> tuple[Content, int]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            known = self._contents.get(_identity(status))
            found: dict[int, str] = {}
            sent = 0

            async def one(number: int) -> None:
                nonlocal sent
                await self.turn()
                name, count = await self._put_chunk(
                    descriptor, number, known.chunks[number] if known else None
                )
                sent += count
                if name is not None:
                    found[number] = name

            numbers = list(known.chunks) if known else await to_its_end(_numbers, descriptor)
            await each(numbers, one, at_once=AT_ONCE)
            content = Content(size=status.st_size, mode=status.st_mode & 0o777, chunks=found)
            self._remember(status, content)
            return content, sent
        finally:
            os.close(descriptor)

    async def _put_chunk(self, descriptor: int, number: int, name: str | None) -> tuple[str | None, int]:
        data = b""
        if name is None:
            data, name = await to_its_end(_named, descriptor, number)
            if name is None:
                return None, 0
        if time.monotonic() - self._seen.get(name, -REFRESH) < REFRESH / 2:
            return name, 0
        age = await self.objects.age(chunks.path_of(name))
        sent = 0
        if age is None or age > REFRESH:
            if not data:
                data, again = await to_its_end(_named, descriptor, number)
                if again != name:
                    raise OSError(errno.EIO, "a file that never changes has changed")
            packed = await to_its_end(chunks.pack, data)
            await self.objects.put(chunks.path_of(name), packed)
            sent = len(packed)
        self._seen[name] = time.monotonic()
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return name, sent

    # Download

    async def find(self, name: str) -> Stored:
        """:raises Unavailable: `snapshot_not_stored`; :raises Internal: `snapshot_damaged`"""
        try:
            data = await self.objects.get(name, MANIFEST_LIMIT)
        except FileNotFoundError:
            raise Unavailable("the object store has no such snapshot", code="snapshot_not_stored") from None
        try:
            found = msgspec.json.decode(data, type=Stored)
        except msgspec.MsgspecError as error:
            raise Internal(
                "the stored snapshot's manifest cannot be read", code="snapshot_damaged"
            ) from error
        if found.version != VERSION:
            raise Internal(f"the stored snapshot has format {found.version}", code="snapshot_damaged")
        if not all(_FILE.fullmatch(path) and path != sealed.MANIFEST for path in found.files):
            raise Internal("the stored snapshot has a file that cannot be", code="snapshot_damaged")
        if _IMAGE.fullmatch(found.template) is None:
            raise Internal("the stored snapshot lies on no template", code="snapshot_damaged")
        for content in (found.image, *found.files.values()):
            content.check()
        return found

    async def fetch(self, stored: Stored, final: Path, *, lazy: bool = False) -> Path:
        """Makes the sealed directory `final` of it, each chunk proven. Returns its root file system, pinned.

        :param lazy: a disk of more than LAZY_FROM may stay in the store: `final` says then what is in it
        :raises Internal: `snapshot_damaged`; :raises Unavailable: :raises OSError: nothing is left of it"""
        wanted = sum(len(content.chunks) for content in (*stored.files.values(), stored.image)) * chunks.CHUNK
        files.require_space(self.paths.data, wanted + HEADROOM, "a snapshot from the object store")
        image = await self._image(stored)
        new = await to_its_end(sealed.begin, final, memory=False)
        try:
            for part, content in stored.files.items():
                target = new / part
                target.parent.mkdir(mode=0o700, exist_ok=True)
                if lazy and part == OVERLAY and len(content.chunks) * chunks.CHUNK > LAZY_FROM:
                    (new / sealed.LAZY).write_bytes(msgspec.json.encode(content))
                    continue
                if part in stored.shared and await to_its_end(self._shared, content, target):
                    continue
                await self._get(content, target)
                if part in stored.shared:
                    await to_its_end(self._keep, target, content)
            crash_point("fetch.files_made")
            await to_its_end(sealed.seal, new, final, image)
        except BaseException:
            await to_its_end(files.remove, new)
            raise
        return image

    async def _get(self, content: Content, target: Path) -> None:
        await to_its_end(chunks.make, target, content)
        descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

        async def one(number: int) -> None:
            name = content.chunks[number]
            packed = await self._packed(name)
            async with self._unpacking:
                await to_its_end(_place, descriptor, number, packed, name)

        try:
            await each(content.chunks, one, at_once=FETCHED_AT_ONCE)
        finally:
            os.close(descriptor)
        if target.lstat().st_size != content.size:
            raise Internal("a file of the stored snapshot does not fit its size", code="snapshot_damaged")

    async def chunk(self, name: str) -> bytes:
        """Proven. :raises Unavailable: the store fails; :raises Internal: `snapshot_damaged`"""
        packed = await self._packed(name)
        async with self._unpacking:
            return await to_its_end(chunks.unpack, packed, name)

    async def _packed(self, name: str) -> bytes:
        try:
            return await self.objects.get(chunks.path_of(name), chunks.PACKED_LIMIT)
        except FileNotFoundError:
            message = f"the object store has lost chunk {name}"
            raise Internal(message, code="snapshot_damaged") from None

    async def _image(self, stored: Stored) -> Path:
        """The root file system of that content, as this host has it, or fetched."""
        wanted = stored.image.digest
        for candidate in await to_its_end(self._images, stored.image.size):
            try:
                if (await to_its_end(self._content, candidate)).digest == wanted:
                    return await to_its_end(self.images.pin, candidate)
            except OSError:
                continue  # it is being replaced
        new = self.images.pinned / f"{wanted}.new"
        await to_its_end(files.remove, new)
        try:
            await self._get(stored.image, new)
            return await to_its_end(self.images.adopt, new, stored.template)
        except BaseException:
            await to_its_end(files.remove, new)
            raise

    def _images(self, size: int) -> list[Path]:
        named = [path for name in self.images.names() if (path := self.images.find(name)) is not None]
        pinned = [path for path in self.images.pinned.iterdir() if self.images.is_pinned(path)]
        return [path for path in (*pinned, *named) if path.is_file() and path.stat().st_size == size]

    def _content(self, path: Path) -> Content:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            known = self._contents.get(_identity(status))
            if known is not None:
                return known
            content = chunks.content_of(descriptor)
            self._remember(status, content)
            return content
        finally:
            os.close(descriptor)

    def _remember(self, status: os.stat_result, content: Content) -> None:
        self._contents[_identity(status)] = content
        if len(self._contents) > _CONTENTS:
            self._contents.popitem(last=False)

    # Files that several have as one

    def _keep(self, path: Path, content: Content) -> None:
        try:
            os.link(path, self.paths.shared / content.digest)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.EMLINK, errno.EXDEV}:
                raise

    def _shared(self, content: Content, target: Path) -> bool:
        """Whether this host has that content, which `target` then is. It is read again: what was remembered may have been
        damaged since, with everything that shares it."""
        kept = self.paths.shared / content.digest
        try:
            descriptor = os.open(kept, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                found = chunks.content_of(descriptor)
            finally:
                os.close(descriptor)
            if found.digest != content.digest:
                files.remove(kept)
                return False
            os.link(kept, target)
        except OSError:
            return False
        return True

    def sweep(self) -> None:
        """Drops what is shared with nobody any more."""
        for entry in self.paths.shared.iterdir():
            if entry.lstat().st_nlink == 1:
                files.remove(entry)

    # Ends

    async def drop(self, id: str, *, before: int | None = None) -> None:
        """The manifests of a sandbox or snapshot. Idempotent.

        :param before: only those of older generations"""
        prefix = f"sandboxes/{id}"
        found = [met.name async for met in self.objects.names(prefix)]
        doomed = [name for name in found if before is None or _generation(name) < before]
        if before is None:
            doomed.append(of_snapshot(id))
        await self.objects.delete(doomed)

    async def collect(self) -> int:
        """Removes chunks that nothing names and that are old. Returns how many."""
        limit = datetime.now(UTC) - timedelta(seconds=KEEP)
        old = {met.name async for met in self.objects.names("chunks") if met.written_at < limit}
        if old:
            for prefix in ("sandboxes", "named"):
                async for met in self.objects.names(prefix):
                    try:
                        manifest = await self.find(met.name)
                    except Unavailable as error:
                        if error.code != "snapshot_not_stored":
                            raise
                        continue  # dropped meanwhile
                    for content in (manifest.image, *manifest.files.values()):
                        old.difference_update(map(chunks.path_of, content.chunks.values()))
        # Looked at again: somebody may have begun to use one of them.
        doomed = [name for name in old if (await self.objects.age(name) or 0) > KEEP]
        await self.objects.delete(doomed)
        return len(doomed)


def _numbers(descriptor: int) -> list[int]:
    return list(chunks.with_data(descriptor))


def _named(descriptor: int, number: int) -> tuple[bytes, str | None]:
    data = chunks.read(descriptor, number)
    return data, chunks.name_of(data)


def _place(descriptor: int, number: int, packed: bytes, name: str) -> None:
    chunks.write(descriptor, number, chunks.unpack(packed, name))


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _generation(name: str) -> int:
    stem = name.rpartition("/")[2].removesuffix(".json")
    return int(stem) if stem.isascii() and stem.isdigit() else 0
