"""Sandboxes that come from other hosts by way of the object store, and those that are to be ready for it."""

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

import msgspec
import structlog
from msgspec.structs import replace

from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.uploads import Uploads
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.storage.store import of_sandbox, of_snapshot
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Conflict, Internal, Unavailable, WrennError
from wrenn_server.model.sandbox import State

MENDED = ("snapshot_damaged", "snapshot_missing")
"""Codes of what a copy from the store helps against."""

log = structlog.get_logger()


class Arrivals:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, id: str) -> asyncio.Lock:
        """One arrival at a time for each id."""
        return self._turns.setdefault(id, asyncio.Lock())

    async def store(self, entry: Entry, generation: int) -> None:
        """Returns when the paused sandbox is in the store.

        :raises Conflict: it is not paused, or at another generation; :raises Unavailable: no store, or it fails"""
        if entry.state is not State.PAUSED or entry.snapshot != generation:
            message = f"the sandbox is {entry.state}, not paused at generation {generation}"
            raise Conflict(message, code="invalid_state")
        uploads = self._uploads()
        await uploads.until_stored(of_sandbox(entry.id, generation))
        if uploads.machine_of(entry.id, generation) is None:
            message = "the sandbox could not be sent to the object store"
            raise Unavailable(message, code="store_unavailable")

    async def store_snapshot(self, id: str) -> None:
        """:raises Unavailable: no store, or it fails"""
        uploads = self._uploads()
        await uploads.until_stored(of_snapshot(id))
        if id not in uploads.snapshots():
            message = "the snapshot could not be sent to the object store"
            raise Unavailable(message, code="store_unavailable")

    async def sandbox(self, id: str, generation: int, admit: Callable[[Entry], None], *, lazy: bool) -> Entry:
        """Fetches a paused sandbox and writes it into the journal.

        :param lazy: its disk may stay in the store for now
        :param admit: raises when it may not come here
        :raises Internal: `snapshot_damaged`; :raises Unavailable: nothing is left of it"""
        host, uploads = self._host, self._uploads()
        stored = await uploads.store.find(of_sandbox(id, generation))
        try:
            entry = msgspec.convert(stored.journal, Entry)
        except msgspec.MsgspecError as error:
            raise Internal("the stored sandbox has no journal", code="snapshot_damaged") from error
        if entry.id != id or entry.snapshot != generation or entry.state is not State.PAUSED:
            raise Internal("the stored sandbox is not what its name says", code="snapshot_damaged")
        admit(entry)
        directory = host.files.paths.snapshot(id, generation)
        try:
            image = await uploads.store.fetch(stored, directory, lazy=lazy)
            crash_point("fetch.sealed")
            await to_its_end(uploads.fetched, id, generation, directory, stored.machine)
            arrived = replace(entry, image=str(image), slot=None, vm=None, expires_at=None, elsewhere=False)
            await host.journal.write(arrived)
            crash_point("fetch.recorded")
        except BaseException as error:
            await host.files.remove(id, keep_journal=False)
            if not isinstance(error, OSError):
                raise
            message = f"the sandbox cannot be fetched: {error.strerror or error}"
            raise Unavailable(message, code="fetch_failed") from error
        log.info("fetched", action="fetched", sandbox_id=id, generation=generation)
        return arrived

    async def saved(self, entry: Entry, *, lazy: bool) -> Saved:
        """What a paused sandbox of this host rests on; of the object store, if what is here is damaged.

        :param lazy: its disk may be in the store still
        :raises Internal: `snapshot_missing`, `snapshot_damaged`, `snapshot_consumed`, or `image_changed`"""
        if entry.snapshot is None:
            raise Internal("the journal names no snapshot", code="snapshot_missing")
        snapshots = self._host.files.snapshots
        try:
            saved = await snapshots.saved(entry.id, entry.snapshot)
            if lazy or saved.lazy is None:
                return saved
            raise Internal("its disk is in the object store alone", code="snapshot_missing")
        except Internal as damage:
            if damage.code not in MENDED or self._host.uploads is None:
                raise
            log.warning(
                "a snapshot is not whole", action="damaged", sandbox_id=entry.id, error=damage.message
            )
            await self._mend(entry.id, entry.snapshot, self._host.uploads, damage)
            return await snapshots.saved(entry.id, entry.snapshot)

    async def _mend(self, id: str, generation: int, uploads: Uploads, damage: Internal) -> None:
        """:raises Internal: the damage, which is as it was"""
        directory = self._host.files.paths.snapshot(id, generation)
        try:
            stored = await uploads.store.find(of_sandbox(id, generation))
            await uploads.store.fetch(stored, directory)
            await to_its_end(uploads.fetched, id, generation, directory, stored.machine)
        except (WrennError, OSError) as error:
            log.error("and cannot be fetched again", action="mend_failed", sandbox_id=id, error=str(error))
            raise damage from error
        log.info("fetched again", action="mended", sandbox_id=id, generation=generation)

    def _uploads(self) -> Uploads:
        if self._host.uploads is None:
            raise Unavailable("this host has no object store", code="no_object_store", retryable=False)
        return self._host.uploads
