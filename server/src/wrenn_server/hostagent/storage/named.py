"""Named snapshots: saved sandboxes that others start from, whatever has become of their source.

```
named/<snapshot id>/source.json    what a start from it needs; it holds a token, so root alone reads it
named/<snapshot id>/               the rest as of any sealed snapshot
```
"""

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wrenn_server.hostagent.storage import sealed
from wrenn_server.hostagent.storage.images import Images
from wrenn_server.hostagent.storage.paths import Paths
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.storage.snapshots import require_space, verified
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Internal

SOURCE = "source.json"
VERSION = 1
_LIMIT = 8 << 20


class Source(msgspec.Struct, kw_only=True):
    """The sandbox at the moment when it was saved."""

    version: int = VERSION
    sandbox_id: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    access_token: str
    """What the envd in the saved memory asks for."""
    envs: dict[str, str]
    envd_version: str
    template: str = "image"
    """A name for the root file system under it."""
    memory: bool
    """False: the disk alone was saved."""
    message: str | None = None
    """For a person: what is wrong with it."""
    size_bytes: int = 0
    """That the snapshot takes on the disk; what it shares with others is not counted."""


@dataclass(slots=True)
class Making:
    """A snapshot that is not finished."""

    directory: Path
    """With an empty `memory/` in it, or without."""
    source: Source | None = None
    image: Path | None = None
    """Both to be set before it is left."""


@dataclass(frozen=True, slots=True)
class Named:
    paths: Paths
    images: Images

    @asynccontextmanager
    async def making(self, id: str, *, memory_mb: int | None) -> AsyncGenerator[Making]:
        """Left without an error, the snapshot is complete and durable. Otherwise nothing is left of it.

        :param memory_mb: None: the disk alone is saved
        :raises Unavailable: `disk_full`, before anything was written; :raises OSError:"""
        final = self.paths.named_snapshot(id)
        await to_its_end(require_space, self.paths.named, memory_mb or 0)
        making = Making(await to_its_end(sealed.begin, final, memory=memory_mb is not None))
        crash_point("snapshot.begun")
        try:
            yield making
            await to_its_end(_seal, making, final)
            crash_point("snapshot.sealed")
        except BaseException:
            await to_its_end(files.remove, making.directory)
            raise

    async def find(self, id: str) -> Source | None:
        """:raises Internal: `snapshot_damaged`"""
        return await to_its_end(read, self.paths.named_snapshot(id))

    async def saved(self, id: str) -> Saved:
        """:raises Internal: `snapshot_missing`, `snapshot_damaged`, or `image_changed`"""
        return await to_its_end(verified, self.paths.named_snapshot(id), self.images)

    async def remove(self, id: str) -> None:
        """Durable when it returns. Idempotent. VMs that were started from it go on.

        :raises OSError:"""
        await to_its_end(sealed.remove, self.paths.named_snapshot(id))
        crash_point("delete.done")

    def pins(self) -> list[Path]:
        """Images that these snapshots lie on."""
        return sealed.pins(self.paths.named.iterdir())

    def sweep(self) -> None:
        """After a crash: removes what was never finished, or was being removed."""
        sealed.sweep(self.paths.named)


def _seal(making: Making, final: Path) -> None:
    if making.source is None or making.image is None:
        raise AssertionError("a snapshot of nothing")
    making.source.size_bytes = _own_size(making.directory)
    files.write_durably(making.directory / SOURCE, msgspec.json.encode(making.source))
    crash_point("snapshot.source_written")
    sealed.seal(making.directory, final, making.image)


def read(directory: Path) -> Source | None:
    """:raises Internal: `snapshot_damaged`"""
    if not sealed.is_sealed(directory):
        return None
    try:
        with (directory / SOURCE).open("rb") as file:
            source = msgspec.json.decode(file.read(_LIMIT), type=Source)
    except FileNotFoundError:
        return None  # it is being removed
    except (OSError, msgspec.MsgspecError) as error:
        raise Internal(f"the snapshot's {SOURCE} cannot be read", code="snapshot_damaged") from error
    if source.version != VERSION:
        raise Internal(f"the snapshot has format {source.version}, not {VERSION}", code="snapshot_damaged")
    return source


def _own_size(directory: Path) -> int:
    """Bytes of the blocks that no other name holds: the memory of a template is often a link."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            status = Path(parent, name).lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                total += status.st_blocks * 512
    return total
