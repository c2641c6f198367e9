"""What rests on this host goes to the object store, in the background and one after the other.

Nothing is queued on the disk: what a sealed directory has no `stored` beside its manifest for is still to be sent, by
this agent or the next. What is gone leaves a name in `store/doomed/` until its manifests are gone from the store, too.
"""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import structlog
from msgspec.structs import replace

from wrenn_server.hostagent.sandbox.files import Files
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.storage import named, sealed
from wrenn_server.hostagent.storage.store import Store, of_sandbox, of_snapshot
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.linux import files
from wrenn_server.linux.crash import crash_point
from wrenn_server.model import ids
from wrenn_server.model.errors import Unavailable, WrennError
from wrenn_server.model.sandbox import State

STORED = "stored"
"""In a sealed directory: the machine under which it is in the store."""
COLLECT_INTERVAL = 6 * 3600.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between tries while the store fails."""
_MACHINE_LIMIT = 200

log = structlog.get_logger()


@dataclass(slots=True)
class Job:
    name: str
    """Of the manifest."""
    id: str
    generation: int | None
    """None: of a named snapshot."""
    directory: Path
    template: str
    journal: dict[str, Any] | None
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Uploads:
    """An async context manager: leaving breaks off what is being sent; the next agent goes on with it."""

    def __init__(self, store: Store, host_files: Files) -> None:
        self.store = store
        self.told: Callable[[], None] = lambda: None
        """Called when something is in the store now; must be quick."""
        self._files = host_files
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._stored: dict[str, tuple[int, str]] = {}
        self._snapshots: dict[str, str] = {}
        self._doomed: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await to_its_end(self.store.sweep)
        self._find_snapshots()
        self._doomed |= {marker.name for marker in self._files.paths.doomed.iterdir() if _is_id(marker.name)}
        self._tasks = [
            asyncio.create_task(self._run(), name="uploads"),
            asyncio.create_task(self._collect(), name="collect chunks"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._jobs.values():
            _refuse(job, Unavailable("the agent is stopping"))

    # What is to be sent

    def rests(self, entry: Entry) -> None:
        """A sandbox has been found, or has become, paused. Idempotent."""
        if entry.state is not State.PAUSED or entry.snapshot is None:
            return
        directory = self._files.paths.snapshot(entry.id, entry.snapshot)
        if self._stored.get(entry.id, (None, ""))[0] == entry.snapshot:
            return
        machine = _marked(directory)
        if machine is not None:
            self._stored[entry.id] = entry.snapshot, machine
            return
        name = of_sandbox(entry.id, entry.snapshot)
        journal = msgspec.to_builtins(replace(entry, slot=None, vm=None, image=None))
        self._add(Job(name, entry.id, entry.snapshot, directory, entry.template, journal))

    def made(self, snapshot_id: str, template: str) -> None:
        """A named snapshot is complete."""
        directory = self._files.paths.named_snapshot(snapshot_id)
        self._add(Job(of_snapshot(snapshot_id), snapshot_id, None, directory, template, None))

    def fetched(self, id: str, generation: int | None, directory: Path, machine: str) -> None:
        """It comes from the store."""
        _mark(directory, machine)
        self._note(id, generation, machine)

    async def doom(self, id: str) -> None:
        """It goes from this host, and nobody else has it. Durable when it returns; but a full disk is no reason to keep
        anything: then an agent that dies before the store is told leaves its manifest there."""
        self._doomed.add(id)
        try:
            await to_its_end(files.write_durably, self._files.paths.doomed / id, b"")
        except OSError as error:
            log.error("an end is not noted", action="doom_failed", id=id, error=str(error))
        crash_point("doom.noted")
        self._wake.set()

    # What is there

    def machine_of(self, id: str, generation: int) -> str | None:
        """Under which the sandbox of that generation is in the store; None: it is not."""
        held, machine = self._stored.get(id, (None, None))
        return machine if held == generation else None

    def snapshots(self) -> dict[str, str]:
        """Named ones that are in the store, and their machine."""
        return dict(self._snapshots)

    async def until_stored(self, name: str) -> None:
        """Before all others. :raises WrennError: it cannot be sent, or the store fails"""
        job = self._jobs.get(name)
        if job is not None:
            self._jobs.move_to_end(name, last=False)
            await asyncio.shield(job.done)

    # Inside

    def _find_snapshots(self) -> None:
        for directory in self._files.paths.named.iterdir():
            if ids.parse_snapshot_id(directory.name) is None or not sealed.is_sealed(directory):
                continue
            machine = _marked(directory)
            if machine is not None:
                self._snapshots[directory.name] = machine
            else:
                with contextlib.suppress(WrennError):
                    source = named.read(directory)
                    if source is not None:
                        self.made(directory.name, source.template)

    def _add(self, job: Job) -> None:
        if job.name not in self._jobs:
            self._jobs[job.name] = job
            self._wake.set()

    def _note(self, id: str, generation: int | None, machine: str) -> None:
        if generation is None:
            self._snapshots[id] = machine
        else:
            self._stored[id] = generation, machine
        self.told()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._wake.clear()
            try:
                if not self.store.identity:
                    self.store.identity = await self.store.objects.identity()
                    self.told()
                await self._drop_doomed()
                while self._jobs:
                    await self._send(next(iter(self._jobs.values())))
                    await self._drop_doomed()
            except (WrennError, OSError) as error:
                log.warning(
                    "the object store must wait", action="store_failed", error=str(error), retry_sec=pause
                )
                for job in self._jobs.values():  # whoever waits is told, and asks again
                    _refuse(job, Unavailable(str(error), code="store_unavailable"))
                    job.done = asyncio.get_running_loop().create_future()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            await self._wake.wait()

    async def _send(self, job: Job) -> None:
        """:raises WrennError: :raises OSError: the store's fault; it is tried again"""
        began = asyncio.get_running_loop().time()
        try:
            sent = await self.store.upload(
                job.name, job.directory, template=job.template, journal=job.journal
            )
            crash_point("upload.manifest_sent")
            await to_its_end(_mark, job.directory, self.store.machine)
            crash_point("upload.marked")
        except Unavailable:
            raise
        except (WrennError, OSError) as error:
            if job.directory.exists():
                log.error("a snapshot stays unsent", action="upload_failed", name=job.name, error=str(error))
            self._jobs.pop(job.name)  # gone meanwhile, or damaged: nothing of it can be sent
            _refuse(job, error if isinstance(error, WrennError) else Unavailable(str(error)))
            return
        if job.generation is not None:
            await self.store.drop(job.id, before=job.generation)
        seconds = round(asyncio.get_running_loop().time() - began, 2)
        log.info(
            "uploaded",
            action="uploaded",
            name=job.name,
            sent_bytes=sent,
            seconds=seconds,
            left=len(self._jobs) - 1,
        )
        self._jobs.pop(job.name)
        self._note(job.id, job.generation, self.store.machine)
        if not job.done.done():
            job.done.set_result(None)

    async def _drop_doomed(self) -> None:
        for id in list(self._doomed):
            for name in [name for name, job in self._jobs.items() if job.id == id]:
                _refuse(self._jobs.pop(name), Unavailable("it was deleted"))
            self._stored.pop(id, None)
            self._snapshots.pop(id, None)
            await self.store.drop(id)
            crash_point("doom.dropped")
            self._doomed.discard(id)
            await to_its_end(files.remove, self._files.paths.doomed / id)

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_INTERVAL * random.uniform(0.5, 1.5))  # noqa: S311 - several hosts do it
            try:
                removed = await self.store.collect()
                await to_its_end(self.store.sweep)
            except (WrennError, OSError) as error:
                log.warning("chunks stay behind", action="collect_failed", error=str(error))
            else:
                log.info("collected", action="collected", chunks=removed)


def _is_id(text: str) -> bool:
    return ids.parse_sandbox_id(text) is not None or ids.parse_snapshot_id(text) is not None


def _mark(directory: Path, machine: str) -> None:
    files.write_durably(directory / STORED, machine.encode())


def _marked(directory: Path) -> str | None:
    try:
        with (directory / STORED).open("rb") as file:
            return file.read(_MACHINE_LIMIT).decode()
    except (OSError, UnicodeDecodeError):
        return None


def _refuse(job: Job, error: WrennError) -> None:
    if not job.done.done():
        job.done.set_exception(error)
        job.done.exception()  # seen, even when nobody waits
