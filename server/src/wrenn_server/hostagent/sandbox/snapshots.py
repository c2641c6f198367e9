"""The named snapshots of this host: made once for each id, gone for good when they are deleted.

A deletion may overtake the making of what it deletes, or arrive before it: it wins in any case, as nobody would ever
ask for the rest again. An agent that starts anew has nothing half-made left.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from wrenn_server.hostagent.sandbox import checks
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.sandbox.messages import Call, Checkpoint
from wrenn_server.hostagent.sandbox.owner import Owner
from wrenn_server.hostagent.sandbox.uploads import Uploads
from wrenn_server.hostagent.storage.named import Named, Source
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.storage.store import of_snapshot
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.model.errors import Conflict, Unavailable
from wrenn_server.wire import agent as wire

GRAVES = 10_000
"""Deleted snapshots that are remembered, against a making that comes late."""

log = structlog.get_logger()


@dataclass(slots=True)
class Users:
    """Those who are starting from a snapshot."""

    count: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Snapshots:
    def __init__(self, named: Named, uploads: Uploads | None = None) -> None:
        self._named = named
        self._uploads = uploads
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One making or deletion at a time for each id."""
        self._users: dict[str, Users] = {}
        self._graves: OrderedDict[str, None] = OrderedDict()

    async def find(self, id: str, sandbox_id: str) -> Source | None:
        """What was saved of that sandbox under that id.

        :raises Conflict: it is of another sandbox"""
        source = await self._named.find(id)
        if source is not None and source.sandbox_id != sandbox_id:
            raise Conflict("a snapshot with this id exists, of another sandbox", code="snapshot_exists")
        return source

    async def make(self, owner: Owner, body: wire.Snapshot) -> Source:
        """Answers when it is complete and durable; the sandbox has been running again for a while then.

        :raises NotFound: it was deleted; :raises WrennError: nothing is left of it, and the sandbox runs on"""
        async with self._turn(body.id):
            self._check_alive(body.id)
            made = await self.find(body.id, owner.entry.id)
            return made or await self._make(owner, body)

    async def _make(self, owner: Owner, body: wire.Snapshot) -> Source:
        memory_mb = owner.entry.memory_mb if body.memory else None
        async with self._named.making(body.id, memory_mb=memory_mb) as making:
            checkpoint = Checkpoint(making.directory, body.memory)
            await owner.ask(Call(Command.SNAPSHOT, body.generation, checkpoint=checkpoint))
            self._check_alive(body.id)
            of = checkpoint.of or owner.entry
            making.image = Path(of.image or "")
            making.source = source = Source(
                sandbox_id=of.id,
                vcpus=of.vcpus,
                memory_mb=of.memory_mb,
                disk_mb=of.disk_mb,
                access_token=of.access_token,
                envs=of.envs,
                envd_version=of.envd_version,
                template=of.template,
                memory=body.memory,
                message=checkpoint.complaint,
            )
        log.info("snapshot", action="snapshot", sandbox_id=of.id, snapshot_id=body.id, memory=body.memory)
        if self._uploads is not None:
            self._uploads.made(body.id, source.template)
        return source

    async def delete(self, id: str) -> None:
        """Idempotent. Waits for those who are just starting from it."""
        self._graves[id] = None
        if len(self._graves) > GRAVES:
            self._graves.popitem(last=False)
        async with self._turn(id):
            while (users := self._users.get(id)) is not None:
                await users.gone.wait()
            if self._uploads is not None:
                await self._uploads.doom(id)
            await self._named.remove(id)

    async def source(self, id: str) -> Source:
        """From the object store, if it is not on this host.

        :raises NotFound: `snapshot_not_found`; :raises Unavailable: :raises Internal: it is damaged"""
        source = await self._named.find(id)
        if source is None and self._uploads is not None:
            source = await self._fetch(id, self._uploads)
        if source is None:
            raise checks.no_snapshot()
        return source

    async def of(self, id: str, sandbox_id: str) -> Source:
        """As `source`. :raises Conflict: it was taken of another sandbox"""
        source = await self.source(id)
        if source.sandbox_id != sandbox_id:
            raise Conflict("the snapshot was taken of another sandbox", code="snapshot_of_another")
        return source

    @asynccontextmanager
    async def using(self, id: str) -> AsyncGenerator[Saved]:
        """Its files, which stay as long as this lasts: a VM that has been started needs them no more.

        :raises Internal: it is gone, or damaged"""
        users = self._users.setdefault(id, Users())
        users.count += 1
        try:
            yield await self._named.saved(id)
        finally:
            users.count -= 1
            if not users.count:
                del self._users[id]
                users.gone.set()

    async def _fetch(self, id: str, uploads: Uploads) -> Source | None:
        async with self._turn(id):
            self._check_alive(id)
            found = await self._named.find(id)
            if found is not None:
                return found
            try:
                stored = await uploads.store.find(of_snapshot(id))
                directory = self._named.paths.named_snapshot(id)
                await uploads.store.fetch(stored, directory)
                await to_its_end(uploads.fetched, id, None, directory, stored.machine)
            except Unavailable as error:
                if error.code == "snapshot_not_stored":
                    return None
                raise
            except OSError as error:
                raise Unavailable(f"the snapshot cannot be fetched: {error.strerror or error}") from error
            log.info("fetched", action="fetched", snapshot_id=id)
            return await self._named.find(id)

    def _check_alive(self, id: str) -> None:
        if id in self._graves:
            raise checks.no_snapshot()

    def _turn(self, id: str) -> asyncio.Lock:
        return self._turns.setdefault(id, asyncio.Lock())
