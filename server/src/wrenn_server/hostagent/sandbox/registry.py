"""All sandboxes of this host: finds the owner of each, makes new ones, and brings back those of an earlier process."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

import structlog
from msgspec.structs import replace

from wrenn_server.hostagent.guest.client import incarnation
from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.sandbox import checks, lifecycle, recipe
from wrenn_server.hostagent.sandbox.arrivals import Arrivals
from wrenn_server.hostagent.sandbox.forks import Forks
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Damaged, Entry
from wrenn_server.hostagent.sandbox.lifecycle import Command, Recovery
from wrenn_server.hostagent.sandbox.messages import Begin, Call, Lease
from wrenn_server.hostagent.sandbox.owner import Owner
from wrenn_server.hostagent.sandbox.recipe import Failed
from wrenn_server.hostagent.sandbox.snapshots import Snapshots
from wrenn_server.hostagent.sandbox.standby import Restored
from wrenn_server.hostagent.sandbox.template import Shape, Templates
from wrenn_server.hostagent.sandbox.warm import Warm
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Conflict, Internal, InvalidRequest, NotFound, Unavailable, WrennError
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent as wire

SETTLE_TIMEOUT = 10.0
"""Seconds for taking over the sandboxes of the agent before; those that take longer are taken over while we serve."""
LEAVE_TIMEOUT = 20.0
"""Seconds that operations get to finish when the agent stops; then they are broken off and repaired at the next start."""
GRAVES = 10_000
"""Killed sandboxes whose generation is remembered, against a start that comes late."""

SUCCESSION = 1.0
"""Seconds before a new owner takes over from one that died of a mistake: it might die of the same one."""

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reach:
    """The way into a running sandbox."""

    slot: Slot
    access_token: str = field(repr=False)


class Registry:
    """An async context manager. `find` before the slot pool is entered, entering after it."""

    def __init__(
        self,
        host: Host,
        templates: Templates,
        warm: Warm[Restored],
        *,
        take_spare: recipe.TakeSpare = recipe.take_none,
        one_team: bool = False,
    ) -> None:
        self._host = host
        self._take_spare = take_spare
        self._templates = templates
        self._warm = warm
        self._arrivals = Arrivals(host)
        self._snapshots = Snapshots(host.files.named, host.uploads)
        self._forks = Forks(host.files.snapshots, self._start, lambda id: id in self._owners)
        self._one_team = one_team
        self._owners: dict[str, Owner] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._graves: OrderedDict[str, int] = OrderedDict()
        self._found: list[tuple[Entry, Slot | None]] = []
        self._closing = False

    async def find(self) -> None:
        """Reads the journal, keeps the slots of VMs that run on, and ends VMs that nobody will own.

        :raises OSError: the journal cannot be read, or a process will not die"""
        damaged: set[str] = set()
        for entry in self._host.journal.load():
            if isinstance(entry, Damaged):
                log.error("a journal file is left alone", action="journal_damaged", path=str(entry))
                damaged.add(entry.id)
                continue
            slot = None
            if entry.slot is not None and entry.vm is not None and self._should_run(entry):
                slot = self._host.slots.adopt(entry.slot)
                crash_point("adopt.slot_kept")
            self._found.append((entry, slot))
        known = {entry.id for entry, _ in self._found} | damaged
        kept = {entry.place or entry.id for entry, slot in self._found if slot is not None} | damaged
        for name in self._host.strays.children(self._host.cgroup):
            # With a damaged journal a VM under a name that we do not know may be anybody's.
            if name not in kept and (name in known or not damaged):
                log.info("ending a VM that nobody owns", action="stray", sandbox_id=name)
                await self._host.strays.remove(f"{self._host.cgroup}/{name}")
                crash_point("adopt.stray_ended")
        images = [entry.image for entry, _ in self._found if entry.image is not None]
        await asyncio.to_thread(self._host.files.sweep, known=known, places=kept, images=images)
        crash_point("adopt.swept")

    def _should_run(self, entry: Entry) -> bool:
        saved = self._host.files.snapshots.is_saved(entry.id, entry.generation)
        return lifecycle.recover(entry.state, alive=True, saved=saved) is Recovery.ADOPT

    async def __aenter__(self) -> Self:
        for entry, slot in self._found:
            owner = Owner(self._host, entry)
            self._own(owner, owner.recover(slot))
        self._found = []
        # Whoever calls us first finds every VM that runs, not one that is about to be found.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_TIMEOUT):
                await asyncio.gather(*(owner.settled.wait() for owner in self._owners.values()))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Running VMs run on."""
        self._closing = True
        for owner in self._owners.values():
            owner.leave()
        if self._tasks:
            late = (await asyncio.wait(self._tasks, timeout=LEAVE_TIMEOUT))[1]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # Commands.

    async def start(self, id: str, body: wire.Start) -> wire.SandboxReport:
        """:raises WrennError:"""
        checks.shape(body)
        entry = Entry(
            id=id,
            generation=body.generation,
            state=State.STARTING,
            template=body.template,
            template_id=body.template_id,
            team_id=body.team_id,
            vcpus=body.vcpus,
            memory_mb=body.memory_mb,
            disk_mb=body.disk_mb,
            access_token=body.access_token,
            envs=body.envs,
            network=body.network,
        )
        lease = Lease(body.ttl_sec, body.on_timeout, body.pause_memory, body.keep_alive)
        if body.snapshot is not None and id not in self._owners:
            return await self._start_from(body.snapshot, entry, lease, body)
        shape = Shape(body.template, body.vcpus, body.memory_mb, body.disk_mb)

        @asynccontextmanager
        async def source() -> AsyncGenerator[Saved]:
            try:
                prepared = await self._templates.prepare(shape)
            except Failed as failure:
                raise Internal(failure.message, code="template_failed") from failure
            yield prepared.saved

        return await self._start(entry, lease, source, proof=None, take=self._warm.take)

    async def _start_from(
        self, snapshot: str, entry: Entry, lease: Lease, body: wire.Start
    ) -> wire.SandboxReport:
        checks.snapshot_id(snapshot)
        saved = await self._snapshots.source(snapshot)
        checks.fits(
            body, memory=saved.memory, vcpus=saved.vcpus, memory_mb=saved.memory_mb, disk_mb=saved.disk_mb
        )
        entry = replace(entry, envs=saved.envs | entry.envs, envd_version=saved.envd_version)
        return await self._start(
            entry, lease, lambda: self._snapshots.using(snapshot), proof=saved.access_token
        )

    async def pause(self, id: str, body: wire.Pause) -> wire.SandboxReport:
        return await self._owner(id).ask(Call(Command.PAUSE, body.generation, memory=body.memory))

    async def resume(self, id: str, body: wire.Resume) -> wire.SandboxReport:
        host = self._host
        lazy = body.memory and host.driver.lazy
        if body.stored is not None and id not in self._owners:
            await self._fetched(id, body.stored, lazy=lazy)
        earlier = None
        if body.snapshot is not None:
            checks.snapshot_id(body.snapshot)
            earlier = await self._snapshots.of(body.snapshot, id)

        def begin(paused: Entry) -> Begin:
            intent = replace(paused, state=State.RESUMING, network=body.network or paused.network)
            target = replace(intent, generation=body.generation, access_token=body.access_token)
            init = incarnation(target)

            @asynccontextmanager
            async def rest() -> AsyncGenerator[Saved]:
                yield await self._arrivals.saved(paused, lazy=lazy)

            source, proof = rest, paused.access_token
            if body.snapshot is not None and earlier is not None:
                source, proof = partial(self._snapshots.using, body.snapshot), earlier.access_token
            return Begin(
                target,
                Lease(body.ttl_sec, body.on_timeout, body.pause_memory, body.keep_alive),
                lambda: recipe.running(
                    host,
                    intent,
                    source,
                    init=init,
                    proof=proof,
                    reboot=not body.memory,
                    take_spare=self._take_spare,
                ),
            )

        return await self._owner(id).ask(Call(Command.RESUME, body.generation, begin=begin))

    async def timeout(self, id: str, body: wire.Timeout) -> wire.SandboxReport:
        lease = Lease(body.ttl_sec, body.on_timeout, body.pause_memory, body.keep_alive, body.extend)
        return await self._owner(id).ask(Call(Command.TIMEOUT, body.generation, lease=lease))

    async def kill(self, id: str, generation: int, *, elsewhere: bool = False) -> None:
        """Idempotent; legal in every state.

        :param elsewhere: another host has it: what is in the object store stays"""
        owner = self._owners.get(id)
        if owner is None or owner.gone:
            if not elsewhere:  # it may come back
                self._bury(id, generation)
            return
        await owner.ask(Call(Command.KILL, generation, elsewhere=elsewhere))

    async def store(self, id: str, body: wire.Store) -> wire.SandboxReport:
        """A paused sandbox is in the object store when it answers."""
        owner = self._owner(id)
        await self._arrivals.store(owner.entry, body.generation)
        return owner.report()

    async def fetch(self, id: str, body: wire.Fetch) -> wire.SandboxReport:
        """From the object store, unless it is here already; it is paused here when it answers."""
        await self._fetched(id, body.generation, lazy=False)
        return self._owner(id).report()

    async def _fetched(self, id: str, generation: int, *, lazy: bool) -> None:
        # In a task of its own: what is half fetched is finished or removed, even when the caller goes away.
        await asyncio.shield(self._task(self._fetch(id, generation, lazy=lazy), f"fetch {id}"))

    async def _fetch(self, id: str, generation: int, *, lazy: bool) -> None:
        async with self._arrivals.turn(id):
            if id in self._owners:
                return
            if generation <= self._graves.get(id, -1):
                raise Conflict("the sandbox was killed before it was fetched", code="killed")
            entry = await self._arrivals.sandbox(id, generation, self._check_team, lazy=lazy)
            if self._closing:
                raise Unavailable("the agent is stopping")
            owner = Owner(self._host, entry)
            self._own(owner, owner.run())
            self._host.changed(entry)

    async def store_snapshot(self, id: str) -> None:
        """A named snapshot is in the object store when it answers."""
        await self._snapshots.source(id)
        await self._arrivals.store_snapshot(id)

    async def fork(self, id: str, body: wire.Fork) -> wire.ForkReport:
        """Forks that could not be started are told in the report; the source runs on in any case."""
        checks.targets(body.targets)
        # In a task of its own: the checkpoint must stay until all have started, even when the caller goes away.
        return await asyncio.shield(self._task(self._forks.make(self._owner(id), body), f"fork {id}"))

    async def snapshot(self, id: str, body: wire.Snapshot) -> wire.SnapshotReport:
        """The source runs on in any case, and need not be there any more when the same is asked for again."""
        checks.snapshot_id(body.id)
        made = await self._snapshots.find(body.id, id)
        if made is None:
            # In a task of its own: nobody may remove the directory under the owner's hands.
            making = self._snapshots.make(self._owner(id), body)
            made = await asyncio.shield(self._task(making, f"snapshot {id}"))
        return wire.SnapshotReport(
            id=body.id, memory=made.memory, size_bytes=made.size_bytes, message=made.message
        )

    async def delete_snapshot(self, id: str) -> None:
        """Idempotent."""
        await asyncio.shield(self._task(self._snapshots.delete(id), f"delete {id}"))

    async def rewire(self, id: str, body: wire.Rewire) -> wire.SandboxReport:
        """The new rules are in force, for old connections too, when it answers."""
        return await self._owner(id).ask(Call(Command.REWIRE, body.generation, network=body.network))

    async def prepare(self, template: str, body: wire.Prepare) -> wire.TemplateReport:
        checks.shape(body)
        prepared = await self._templates.prepare(Shape(template, body.vcpus, body.memory_mb, body.disk_mb))
        return wire.TemplateReport(
            template=template,
            vcpus=body.vcpus,
            memory_mb=body.memory_mb,
            disk_mb=body.disk_mb,
            boot_seconds=prepared.boot_seconds,
        )

    async def drain(self, mode: str) -> list[wire.SandboxReport]:
        """Pauses or kills all that run; what refuses stays as it is."""
        if mode not in {"pause", "kill"}:
            raise InvalidRequest("mode must be pause or kill")
        command = Command(mode)

        async def end(owner: Owner) -> None:
            with contextlib.suppress(WrennError):
                await owner.ask(Call(command, owner.entry.generation))

        running = [owner for owner in self._owners.values() if owner.entry.state is State.RUNNING]
        await asyncio.gather(*(end(owner) for owner in running))
        return self.reports()

    # Questions.

    def get(self, id: str) -> wire.SandboxReport:
        return self._owner(id).report()

    def reports(self) -> list[wire.SandboxReport]:
        return [owner.report() for owner in self._owners.values()]

    def templates(self) -> list[str]:
        return self._templates.names()

    def reach(self, id: str) -> Reach:
        """:raises NotFound: :raises Conflict: it does not run"""
        owner = self._owner(id)
        if owner.box is None:
            raise Conflict(f"the sandbox is {owner.entry.state}", code="invalid_state")
        return Reach(owner.box.slot, owner.entry.access_token)

    # Owners and their tasks.

    def _owner(self, id: str) -> Owner:
        owner = self._owners.get(id)
        if owner is None:
            raise NotFound("this host has no such sandbox", code="sandbox_not_found")
        return owner

    async def _start(
        self,
        entry: Entry,
        lease: Lease,
        source: recipe.Source,
        *,
        proof: str | None,
        take: recipe.Take = recipe.take_none,
    ) -> wire.SandboxReport:
        if self._closing:
            raise Unavailable("the agent is stopping")
        host, init = self._host, incarnation(entry)
        begin = Begin(
            entry,
            lease,
            lambda: recipe.running(
                host, entry, source, init=init, proof=proof, take=take, take_spare=self._take_spare
            ),
        )
        call = Call(Command.START, entry.generation, begin=lambda _: begin)
        owner = self._owners.get(entry.id)
        if owner is not None:
            return await owner.ask(call)
        if entry.generation <= self._graves.get(entry.id, -1):
            raise Conflict("the sandbox was killed before it was started", code="killed")
        self._check_team(entry)
        owner = Owner(host, entry)
        self._own(owner, owner.run(begin, call))
        return await asyncio.shield(call.answer)

    def _check_team(self, entry: Entry) -> None:
        others = (owner.entry for owner in self._owners.values() if not owner.entry.state.is_final)
        if self._one_team and any(other.team_id != entry.team_id for other in others):
            raise Unavailable(
                "this host emulates its guests in software, which separates tenants badly, and another team uses it",
                code="emulated_tenants",
                hint="use a host with KVM, or set AGENT_EMULATED_TENANTS=yes where all teams trust one another",
            )

    def _own(self, owner: Owner, life: Coroutine[Any, Any, None]) -> None:
        self._owners[owner.entry.id] = owner
        self._task(life, f"own {owner.entry.id}").add_done_callback(lambda task: self._disown(owner, task))

    def _disown(self, owner: Owner, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or task.exception() is None or self._closing:
            del self._owners[owner.entry.id]
            if owner.entry.state is State.KILLED:
                self._bury(owner.entry.id, owner.entry.generation)
            return
        # A mistake of ours. The VM was left running and the journal says what it is, so it goes on as after a crash.
        log.critical(
            "the owner of a sandbox died",
            action="owner_died",
            sandbox_id=owner.entry.id,
            exc_info=task.exception(),
        )
        successor = Owner(self._host, owner.entry)
        self._own(successor, self._succeed(successor, owner.kept))

    async def _succeed(self, owner: Owner, slot: Slot | None) -> None:
        await asyncio.sleep(SUCCESSION)
        await owner.recover(slot)

    def _bury(self, id: str, generation: int) -> None:
        self._graves[id] = max(generation, self._graves.pop(id, 0))
        if len(self._graves) > GRAVES:
            self._graves.popitem(last=False)

    def _task(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
