"""`sandboxes/<id>/state.json`: what the agent means to do and has done, for the agent that comes after it.

Written with fsync and rename before an action (the intent) and after it (the outcome), by the task that owns the
sandbox. It holds the sandbox's access token and environment, so it is readable by root alone.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from wrenn_server.linux.files import write_durably
from wrenn_server.model import ids
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire.agent import KeepAlive, Network

T = TypeVar("T")

FILE = "state.json"
VERSION = 1


class Entry(msgspec.Struct, kw_only=True):
    """Everything that outlives the agent process, about one sandbox. Changed by its owning task alone."""

    version: int = VERSION
    id: str
    generation: int
    state: State
    template: str
    template_id: str
    team_id: str
    vcpus: int
    memory_mb: int
    disk_mb: int
    access_token: str
    """The one that envd asks for; for a paused sandbox the one in its memory."""
    envs: dict[str, str] = {}
    """Of all programs that envd starts."""
    on_timeout: str = "kill"
    pause_memory: bool = True
    """What a pause at the end of its time keeps."""
    expires_at: float | None = None
    """Unix seconds by the host's clock, while it runs."""
    keep_alive: KeepAlive | None = None
    """What puts that off."""
    put_off: bool = False
    """It has been."""
    slot: int | None = None
    """Index of its network namespace, while a VM exists or may exist."""
    place: str | None = None
    """Name of its VM's place and cgroup, where that is not the id: the VM is older than the sandbox."""
    vm: dict[str, Any] | None = None
    """What `Driver.adopt` needs."""
    image: str | None = None
    """Absolute path of the root file system that its disk lies on."""
    snapshot: int | None = None
    """Generation of the snapshot that it would resume from. None while running: what was saved before is old."""
    saved_memory: bool | None = None
    """Of that snapshot: whether there is more than the disk."""
    paused_once: bool = False
    """Something of it may be in the object store."""
    elsewhere: bool = False
    """It is killed here because another host has it: what is in the object store stays."""
    network: Network = msgspec.field(default_factory=Network)
    """What it may reach."""
    envd_version: str = ""
    renewed: list[str] = []
    """What its guest renewed of itself when it started last."""
    reason: Reason | None = None
    message: str | None = None
    console: str | None = None


class Damaged(Exception):
    """A journal file that cannot be read; what it describes is left alone."""

    def __init__(self, id: str, message: str) -> None:
        super().__init__(message)
        self.id = id


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """For work in a thread, which cannot be stopped: a cancelled caller waits for its end, so that nothing is written
    behind the back of what comes next."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class Journal:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, id: str) -> Path:
        return self.directory / id / FILE

    async def write(self, entry: Entry) -> None:
        """Durable when it returns. Makes the sandbox's directory when it is not there yet.

        :raises OSError: the disk is full or broken; what was written before is still there."""
        data = msgspec.json.encode(entry)
        path = self.path(entry.id)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        await unbroken(asyncio.to_thread(write_durably, path, data))

    def load(self) -> Iterator[Entry | Damaged]:
        """All sandboxes of this host, those with a damaged journal as `Damaged`."""
        for directory in sorted(self.directory.iterdir()):
            if ids.parse_sandbox_id(directory.name) is None or not directory.is_dir():
                continue
            try:
                entry = msgspec.json.decode((directory / FILE).read_bytes(), type=Entry)
            except FileNotFoundError:
                continue  # its making or its removal was cut short: it never was, or is no more
            except (OSError, msgspec.MsgspecError) as error:
                yield Damaged(directory.name, f"{directory / FILE}: {error}")
                continue
            if entry.id != directory.name or entry.version != VERSION:
                yield Damaged(
                    directory.name, f"{directory / FILE}: it says {entry.id!r}, version {entry.version}"
                )
                continue
            yield entry
