"""The task that owns one sandbox. Nobody else changes its journal, its VM or its files.

Commands, the end of the VM and the end of the time to live come through one inbox and are decided one after the other
by `lifecycle.decide`. The task is either at rest (paused, failed: no VM) or alive (inside the context of a `Box`).
Only a kill does not wait its turn: it breaks off what is going on and is then next.
"""

import asyncio
import contextlib
from collections.abc import Generator
from typing import cast

import structlog
from msgspec.structs import replace

from wrenn_server.hostagent.network.base import Slot
from wrenn_server.hostagent.sandbox import expiry, lifecycle, recipe
from wrenn_server.hostagent.sandbox.alarm import Alarm
from wrenn_server.hostagent.sandbox.ends import Ends
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.interrupt import Interrupts
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.lazy_disk import LazyDisk
from wrenn_server.hostagent.sandbox.lifecycle import Command, Recovery
from wrenn_server.hostagent.sandbox.messages import (
    Arrived,
    Begin,
    Call,
    End,
    Ended,
    Expired,
    Interrupted,
    Killed,
    Lease,
    Leave,
    Message,
    Paused,
    failure,
    killed_meanwhile,
    nobody,
)
from wrenn_server.hostagent.sandbox.recipe import Box, Failed
from wrenn_server.hostagent.sandbox.record import Record
from wrenn_server.hostagent.sandbox.saving import Saving
from wrenn_server.hostagent.vmm.base import Vm, VmmError
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Internal, Unavailable, WrennError
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire.agent import Network, SandboxReport

PAUSE_RETRY = 30.0
"""Seconds until a pause at the end of the time to live is tried again after it failed."""

log = structlog.get_logger()


class Owner:
    """One sandbox. `run` is its task; the rest may be called by anybody."""

    def __init__(self, host: Host, entry: Entry) -> None:
        self.box: Box | None = None
        """While it runs, for connections into it."""
        self.kept: Slot | None = None
        """Of a VM that runs on although this task has ended."""
        self._host = host
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._interrupts = Interrupts()
        self._alarm = Alarm(host.clock, self._expired, f"time to live of {entry.id}")
        self._current: Call | None = None
        self.settled = asyncio.Event()
        """It runs or rests: what an earlier agent left half done is done or undone."""
        self._over = False
        self.gone = False
        """Nothing is left of it on this host."""
        self._log = log.bind(sandbox_id=entry.id)
        self._record = Record(host, entry, self._log)
        self._saving = Saving(host, self._record, self._interrupts, self._log)
        self._ends = Ends(host, self._record, self._log)

    @property
    def entry(self) -> Entry:
        return self._record.entry

    async def ask(self, call: Call) -> SandboxReport:
        """Has the command carried out, even when the asker is cancelled meanwhile.

        :raises WrennError: it was refused, or failed"""
        if self._over:
            raise Unavailable("the sandbox has just ended, or its agent is stopping")
        if call.command is Command.KILL and call.generation >= self.entry.generation:
            self._interrupts.kill(call)
        self._inbox.put_nowait(call)
        return await asyncio.shield(call.answer)

    def leave(self) -> None:
        """The task ends when it has finished what it is at; a running VM runs on."""
        self._inbox.put_nowait(Leave())

    def report(self) -> SandboxReport:
        return self._record.report()

    async def run(self, begin: Begin | None = None, call: Call | None = None) -> None:
        """Until nothing is left of the sandbox, or the agent leaves.

        :param begin: its first VM; None: it is at rest. `call` is answered when it runs.
        """
        self._current = call
        with self._answering_all():
            while not self._over:
                if begin is not None:
                    await self._live(begin, call)
                    begin = None
                else:
                    begin, call = await self._rest()

    async def recover(self, slot: Slot | None) -> None:
        """Carries on what an earlier agent process left, then as `run`.

        :param slot: of its VM, when the journal knows one; VMs that are not to be taken over are dead already
        """
        with self._answering_all():
            await self.run(await self._settle(slot))

    async def _settle(self, slot: Slot | None) -> Begin | None:
        entry, files = self.entry, self._host.files
        saved = files.snapshots.is_saved(entry.id, entry.generation)
        verdict = lifecycle.recover(entry.state, alive=slot is not None and entry.vm is not None, saved=saved)
        self._log.info(
            "found in the journal", action="recover", state=entry.state, verdict=verdict.name.lower()
        )
        match verdict:
            case Recovery.ADOPT:
                files.snapshots.undo_saving(entry.id, entry.generation)
                return Begin(entry, None, lambda: recipe.adopted(self._host, entry, cast("Slot", slot)))
            case Recovery.REST:
                files.clear(entry.id)
                generation = entry.generation if entry.state is State.PAUSING else entry.snapshot
                memory = generation is not None and files.snapshots.has_memory(entry.id, generation)
                await self._record.note(self._record.paused(generation, memory=memory))
            case Recovery.LOSE:
                starting = entry.state is State.STARTING
                reason = Reason.START_FAILED if starting else Reason.VMM_CRASHED
                await self._ends.failed(reason, f"the agent died while it was {entry.state}", "")
            case Recovery.KILL:
                await self._end(None if entry.reason is Reason.TIMEOUT else nobody())
            case Recovery.KEEP:
                await files.remove(entry.id, keep_journal=True)
        return None

    # At rest: there is no VM.

    async def _rest(self) -> tuple[Begin | None, Call | None]:
        self.settled.set()
        while not self._over:
            message = await self._inbox.get()
            match message:
                case Call() if self._go(message):
                    if message.command is Command.KILL:
                        await self._end(message)
                    elif message.begin is not None:
                        return message.begin(self.entry), message
                case Leave():
                    self._over = True
                case _:
                    pass  # refused, or about a VM that is no more
        return None, None

    # Alive: in the context of a VM.

    async def _live(self, begin: Begin, call: Call | None) -> None:
        """From before the VM exists until after it is gone, or left alone."""
        before = self.entry
        end: End | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with self._interrupts.breakable():
                    self._record.show(replace(before, state=begin.entry.state))
                    box = await stack.enter_async_context(begin.open())
                    await self._runs(begin, box)
                if call is not None:
                    crash_point("vm.recorded")
                    call.done(self.report())
                end = await self._serve(box)
        except (Failed, WrennError, VmmError, OSError, Interrupted) as error:
            if end is None:
                await self._fall_back(before, error, call)
                return
            self._log.error("the teardown of a VM failed", action="teardown_failed", error=str(error))
        match end:
            case Killed(by):
                await self._end(by)
            case Ended(_, exit):
                await self._ends.failed(exit.reason, exit.detail, exit.console)
            case Leave():
                self._over = True
            case Paused():
                crash_point("pause.vm_ended")

    async def _runs(self, begin: Begin, box: Box) -> None:
        lease, entry = begin.lease, begin.entry
        if lease is not None:
            expires = None if lease.ttl is None else self._host.clock.now() + lease.ttl
            entry = lease.of(entry, expires)
        saved = self.entry.snapshot
        await self._record.write(
            replace(
                entry,
                state=State.RUNNING,
                slot=box.slot.index,
                place=box.entry.place,
                image=box.entry.image,
                vm=box.vm.record(),
                envd_version=box.introduced.version or entry.envd_version,
                renewed=box.introduced.renewed,
                snapshot=None,
                saved_memory=None,
                message=box.complaint,
            )
        )
        if saved is not None:
            crash_point("resume.recorded")
            await self._host.files.snapshots.consume(self.entry.id, saved)

    async def _serve(self, box: Box) -> End:
        watchers = [asyncio.create_task(self._watch(box.vm), name=f"watch {self.entry.id}")]
        if box.lazy is not None:
            arrival = self._watch_disk(box.vm, box.lazy)
            watchers.append(asyncio.create_task(arrival, name=f"watch disk of {self.entry.id}"))
        self.box = box
        self.settled.set()
        self._alarm.set(self.entry.expires_at)
        try:
            while True:
                message = await self._inbox.get()
                end = await self._handle(box, message)
                if end is not None:
                    return end
        except BaseException:
            # A cancelled task, or a mistake of ours, is no reason to end what the user runs.
            self._leave_running(box)
            raise
        finally:
            self.box = None
            self._alarm.set(None)
            for watcher in watchers:
                watcher.cancel()

    async def _handle(self, box: Box, message: Message) -> End | None:
        match message:
            case Call() if self._go(message):
                return await self._obey(box, message)
            case Expired(at) if at == self.entry.expires_at:
                return await self._expire(box)
            case Ended(vm, _) if vm is box.vm:
                return message
            case Arrived(vm) if vm is box.vm:
                return await self._saving.arrived(box)
            case Leave():
                self._leave_running(box)
                return message
            case _:
                return None

    async def _obey(self, box: Box, call: Call) -> End | None:
        end: End | None = None
        try:
            match call.command:
                case Command.KILL:
                    await self._record.doom(Reason.USER, elsewhere=call.elsewhere)
                    crash_point("kill.intent_written")
                    return Killed(call)
                case Command.PAUSE:
                    await self._saving.pause(box, memory=call.memory)
                    end = Paused()
                case Command.FORK | Command.SNAPSHOT if call.checkpoint is not None:
                    await self._saving.checkpoint(box, call.checkpoint)
                case Command.TIMEOUT if call.lease is not None:
                    await self._prolong(call.lease)
                case Command.REWIRE if call.network is not None:
                    await self._rewire(box, call.network)
                case _:
                    raise Internal(f"nobody carries out {call.command} of a running sandbox")
        except WrennError as error:
            call.refuse(error)
        except Interrupted:
            call.refuse(killed_meanwhile())
        except (VmmError, OSError) as error:
            self._log.warning("a command failed", action=f"{call.command}_failed", error=str(error))
            call.refuse(failure(call.command, error))
        else:
            call.done(self.report())
        return end

    async def _expire(self, box: Box) -> End | None:
        try:
            expires = await expiry.put_off(self._host, self._record, self._interrupts, box)
        except Interrupted:
            return None  # whoever kills it is next
        if expires is not None:
            self._alarm.set(expires)
            return None
        self._log.info("time to live is over", action="expired", then=self.entry.on_timeout)
        crash_point("expire.due")
        if self.entry.on_timeout != "pause":
            await self._record.doom(Reason.TIMEOUT)
            crash_point("expire.intent_written")
            return Killed(None)
        try:
            await self._saving.pause(box, memory=self.entry.pause_memory)
        except Interrupted:
            return None
        except (VmmError, OSError, WrennError) as error:
            # What the user has in memory is worth more than the time it overstays.
            self._log.warning("pause failed", action="pause_failed", error=str(error), retry_sec=PAUSE_RETRY)
            self._alarm.set(self.entry.expires_at, not_before=self._host.clock.now() + PAUSE_RETRY)
            return None
        return Paused()

    def _leave_running(self, box: Box) -> None:
        box.detach()
        self.kept = box.slot

    async def _prolong(self, lease: Lease) -> None:
        now, before = self._host.clock.now(), self.entry.expires_at
        expires = lifecycle.expiry(lease.ttl, now, before, extend=lease.extend)
        await self._record.write(lease.of(self.entry, expires))
        crash_point("timeout.recorded")
        self._alarm.set(expires)

    async def _rewire(self, box: Box, network: Network) -> None:
        """The intent comes first: whatever ends this agent, the next one does not bring the old rules back after the
        new ones were acknowledged."""
        before = self.entry
        await self._record.write(replace(before, network=network))
        crash_point("rewire.intent_written")
        try:
            await box.egress.apply(network)
            crash_point("rewire.applied")
        except WrennError:
            await self._record.note(before)
            raise

    # Ends.

    async def _end(self, by: Call | None) -> None:
        if await self._ends.killed(by):
            self.gone = self._over = True

    async def _fall_back(self, before: Entry, error: Exception, call: Call | None) -> None:
        """A start or resume did not succeed, and its VM is gone."""
        command = call.command if call else Command.START
        if before.state is State.PAUSED:
            self._host.files.clear(before.id)
            await self._record.note(before)
        elif isinstance(error, WrennError):
            # Nothing has begun, and the caller may try it here or elsewhere: no trace stays.
            await self._host.files.remove(before.id, keep_journal=False)
            self.gone = self._over = True
        elif isinstance(error, Failed):
            await self._ends.failed(error.reason, error.message, error.console)
        elif not isinstance(error, Interrupted):
            await self._ends.failed(Reason.START_FAILED, str(error), "")
        if call is not None:
            match error:
                case WrennError():
                    call.refuse(error)
                case Interrupted():
                    call.refuse(killed_meanwhile())
                case Failed():
                    call.refuse(failure(command, error, error.console))
                case _:
                    call.refuse(failure(command, error))

    # Tools.

    def _go(self, call: Call) -> bool:
        """Whether the command is to be carried out; otherwise it is answered."""
        self._interrupts.taken(call)
        self._current = call
        match lifecycle.decide((self.entry.state, self.entry.generation), call.command, call.generation):
            case lifecycle.Go():
                return True
            case lifecycle.Done():
                if call.command is Command.START and self.entry.state is State.FAILED:
                    call.refuse(Internal(self.entry.message or "the start failed", code="start_failed"))
                else:
                    call.done(self.report())
            case lifecycle.Refuse(error):
                call.refuse(error)
        return False

    def _too_late(self, call: Call) -> None:
        if call.command is Command.KILL and self.gone:
            call.done(self.report())
        else:
            call.refuse(Unavailable("the sandbox has just ended, or its agent is stopping"))

    @contextlib.contextmanager
    def _answering_all(self) -> Generator[None]:
        """Whatever ends this task, nobody who asked waits for ever."""
        try:
            yield
        finally:
            self._over = True
            self.settled.set()
            if self._current is not None:
                self._too_late(self._current)
            while not self._inbox.empty():
                message = self._inbox.get_nowait()
                if isinstance(message, Call):
                    self._too_late(message)

    def _expired(self, at: float) -> None:
        self._inbox.put_nowait(Expired(at))

    async def _watch(self, vm: Vm) -> None:
        self._inbox.put_nowait(Ended(vm, await vm.wait()))

    async def _watch_disk(self, vm: Vm, disk: LazyDisk) -> None:
        with contextlib.suppress(WrennError):
            await disk.until_whole()
        self._inbox.put_nowait(Arrived(vm))
