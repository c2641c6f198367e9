"""What a running sandbox is made of, as stacked context managers: slot, directory, disk, VM, guest.

Set-up stops at the first error and takes back what it did. Leaving ends the VM and releases the slot, except after
`Box.detach()`. The lasting files of a sandbox (overlay, snapshots, journal) belong to its owner, not to this recipe.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from wrenn_server.hostagent.guest.client import WARM_UP, Connect, GuestFailed, Introduced, nameless
from wrenn_server.hostagent.network.base import Egress, Slot
from wrenn_server.hostagent.sandbox import lazy_disk
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.lazy_disk import LazyDisk
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.vmm.base import Place, Vm, Vmm, VmmError
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import WrennError
from wrenn_server.model.sandbox import Reason
from wrenn_server.wire import envd

T = TypeVar("T")
log = structlog.get_logger()

Source = Callable[[], AbstractAsyncContextManager[Saved]]
"""Gives what a VM comes from, and keeps it there; entering may take as long as the boot of a template."""


@dataclass(slots=True)
class Hold:
    """Whether the things of a VM stay when its context is left."""

    detached: bool = False


@dataclass(slots=True)
class Box:
    """A running VM with all that belongs to it."""

    entry: Entry
    slot: Slot
    egress: Egress
    vm: Vm
    overlay: Path
    introduced: Introduced
    complaint: str | None
    """For a person: what may be missing on its disk."""
    lazy: LazyDisk | None = None
    """Its disk, as long as it is on its way."""
    hold: Hold = field(default_factory=Hold)

    def detach(self) -> None:
        """From now on leaving the context leaves the VM, its slot and its directory as they are."""
        self.hold.detached = True
        self.vm.detach()


@dataclass(frozen=True, slots=True)
class Berth:
    """Where a VM is to be: a slot, a directory, a name. Nobody has it until there is one."""

    slot: Slot
    place: Place
    hold: Hold


class Steps:
    """Where the time of a start goes, for the log."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, step: str) -> None:
        now = time.perf_counter()
        self.milliseconds[f"{step}_ms"] = round((now - self._last) * 1e3, 1)
        self._last = now


class Failed(Exception):
    """A VM could not be brought to life, or did not live long enough."""

    def __init__(self, reason: Reason, message: str, console: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.console = console


class Standby(Protocol):
    """A VM that has been restored already, and belongs to whoever holds this."""

    async def become(
        self, entry: Entry, saved: Saved, stack: AsyncExitStack, steps: Steps, init: Callable[[], envd.Init]
    ) -> Box | None:
        """None: it did not wake, and nothing is left of it; another VM has to be restored.

        :param stack: gets what ends it
        :raises WrennError: the sandbox's own wishes cannot be met"""
        ...


Take = Callable[[Entry, Saved], Standby | None]
"""Gives one that comes from that source, if there is one."""


class Spare(Protocol):
    """A berth with a VMM that waits in it; it belongs to whoever holds this."""

    @property
    def berth(self) -> Berth: ...

    @property
    def vmm(self) -> Vmm: ...

    @property
    def stack(self) -> AsyncExitStack:
        """Ends it."""
        ...


TakeSpare = Callable[[Entry, Saved], Spare | None]
"""Gives one that can load that source, if there is one."""


def take_none(_entry: Entry, _saved: Saved) -> None:
    """Nothing stands by, nothing waits."""


@asynccontextmanager
async def running(
    host: Host,
    entry: Entry,
    source: Source,
    *,
    init: Callable[[], envd.Init],
    proof: str | None,
    reboot: bool = False,
    take: Take = take_none,
    take_spare: TakeSpare = take_none,
) -> AsyncGenerator[Box]:
    """A sandbox restored from `source`, or booted when that has no memory; entered when its guest has acknowledged
    `/init`.

    :param entry: the intent, written to the journal with slot and image before anything is started
    :param init: called at the last moment, because the time is in it
    :param proof: the access token in the restored memory; None when there is none yet
    :param reboot: boot even when there is memory
    :raises Failed: it did not come to life, and nothing is left of it; :raises WrennError: no slot, source gone
    """
    steps = Steps()
    async with AsyncExitStack() as stack:
        async with source() as saved:
            steps.done("source")
            crash_point("vm.source_found")
            standby = take(entry, saved)
            box = None
            if standby is not None:
                with host.quiet.broken():
                    box = await standby.become(entry, saved, stack, steps, init)
            if box is None:
                async with host.starts:
                    steps.done("turn")
                    with host.quiet.broken():
                        spare = None if reboot else take_spare(entry, saved)
                        box = await _brought_up(host, entry, saved, stack, steps, init, proof, reboot, spare)
        log.info("runs", action="runs", sandbox_id=entry.id, **steps.milliseconds)
        yield box


async def _brought_up(
    host: Host,
    entry: Entry,
    saved: Saved,
    stack: AsyncExitStack,
    steps: Steps,
    init: Callable[[], envd.Init],
    proof: str | None,
    reboot: bool,
    spare: Spare | None,
) -> Box:
    if spare is not None:
        await stack.enter_async_context(spare.stack)
        berth = spare.berth
        crash_point("spare.taken")
    else:
        berth = await stack.enter_async_context(berth_of(host, entry.id))
    slot, place = berth.slot, berth.place
    steps.done("slot")
    crash_point("vm.slot_held")
    egress = await stack.enter_async_context(host.slots.enforcing(slot, entry.network))
    steps.done("egress")
    crash_point("vm.egress_enforced")
    name = None if place.id == entry.id else place.id
    entry = msgspec.structs.replace(entry, slot=slot.index, place=name, image=str(saved.image))
    with failures(f"starting {entry.id}"):
        overlay = await both(host.files.disk_of(saved, entry.id, slot.uid), host.journal.write(entry))
        steps.done("disk")
        crash_point("vm.intent_written")
        lazy = await lazy_disk.served(host, entry.id, place, stack)
        spec = host.spec(entry, overlay, lazy=lazy is not None)
        memory, complaint = saved.memory, None
        if memory is not None and reboot:
            # What programs have written is in this memory still, not on the disk.
            async with host.driver.restore(spec, place, memory) as vm:
                complaint = await flushed(host, slot, entry, proof or "")
                await vm.pause()
            memory = None
            steps.done("flush")
            crash_point("vm.flushed")
        if memory is not None:
            if spare is not None:
                vm = await spare.vmm.load(spec, memory)
                crash_point("spare.loaded")
            else:
                vm = await stack.enter_async_context(host.driver.restore(spec, place, memory))
            steps.done("vm")
            crash_point("vm.restored")
        else:
            vm = await stack.enter_async_context(host.driver.boot(spec, place))
            steps.done("vm")
            await _answering(host, slot, vm)
            proof = None  # what has just booted has no token yet
            steps.done("boot")
            crash_point("vm.booted")
        introduced = await introduce(host, slot, vm, init, proof)
        steps.done("guest")
        crash_point("vm.introduced")
    return Box(entry, slot, egress, vm, overlay, introduced, complaint, lazy, berth.hold)


async def flushed(host: Host, slot: Slot, entry: Entry, token: str) -> str | None:
    """Has a running guest write out its file systems. What is to be told when it does not: its disk is then what a power
    cut would leave, which the journal of its file system can stand, and a guest that hangs must not have its way."""
    try:
        await host.guest.flush(to_envd(host, slot), token, memory_mb=entry.memory_mb)
    except GuestFailed as error:
        log.warning("a disk is not up to date", action="flush_failed", sandbox_id=entry.id, error=str(error))
        return f"{error}; what its programs had not synced may be lost"
    return None


@asynccontextmanager
async def adopted(host: Host, entry: Entry, slot: Slot) -> AsyncGenerator[Box]:
    """A sandbox that an earlier agent process left running; its processors run when this is entered.

    :raises Failed: its VM is no more"""
    async with AsyncExitStack() as stack:
        hold = Hold()
        stack.push_async_callback(_release, host, slot, hold)
        name = entry.place or entry.id
        directory = stack.enter_context(directory_of(host.files.paths.place(name), hold))
        overlay = host.files.paths.overlay(entry.id)
        try:
            egress = await stack.enter_async_context(host.slots.enforcing(slot, entry.network))
            place = host.place(name, slot, directory)
            lazy = await lazy_disk.served(host, entry.id, place, stack)
            spec = host.spec(entry, overlay, lazy=lazy is not None)
            vm = await stack.enter_async_context(host.driver.adopt(spec, place, entry.vm or {}))
            await vm.resume()
            crash_point("adopt.resumed")
        except (VmmError, WrennError, OSError) as error:
            await host.strays.remove(f"{host.cgroup}/{name}")  # nobody can steer it any more
            raise Failed(Reason.VMM_CRASHED, f"its VM cannot be taken over: {error}") from error
        known = Introduced(entry.envd_version, entry.renewed)
        yield Box(entry, slot, egress, vm, overlay, known, None, lazy, hold)


@asynccontextmanager
async def booted(
    host: Host, name: str, entry: Entry, overlay: Callable[[int], Awaitable[Path]]
) -> AsyncGenerator[Vm]:
    """A template's VM, cold-booted under the given name, entered when its envd answers.

    :param overlay: makes the empty overlay for that user id
    :raises Failed: it did not come to life; :raises WrennError: no slot"""
    async with AsyncExitStack() as stack:
        berth = await stack.enter_async_context(berth_of(host, name))
        with failures(f"booting template {entry.template}"):
            disk = await overlay(berth.slot.uid)
            crash_point("template.disk_made")
            vm = await stack.enter_async_context(
                host.driver.boot(host.spec(entry, disk), berth.place, template=True)
            )
            await _answering(host, berth.slot, vm)
            crash_point("template.booted")
            try:
                await before_exit(vm, host.guest.warm_up(to_envd(host, berth.slot), nameless, WARM_UP))
            except GuestFailed as error:
                log.warning("a template stays cold", action="warm_up_failed", name=name, error=str(error))
        yield vm


def to_envd(host: Host, slot: Slot) -> Connect:
    """The way to the envd of the guest in that slot."""
    return lambda timeout: host.slots.connect(slot, envd.PORT, timeout)


async def introduce(
    host: Host, slot: Slot, vm: Vm, init: Callable[[], envd.Init], proof: str | None
) -> Introduced:
    try:
        talk = host.guest.introduce(to_envd(host, slot), init, proof)
        return await before_exit(vm, talk)
    except GuestFailed as error:
        raise Failed(Reason.START_FAILED, str(error), await console_of(vm)) from error


async def _answering(host: Host, slot: Slot, vm: Vm) -> None:
    try:
        await before_exit(vm, host.guest.answering(to_envd(host, slot)))
    except GuestFailed as error:
        raise Failed(Reason.START_FAILED, str(error), await console_of(vm)) from error


async def console_of(vm: Vm) -> str:
    """Last lines of the console, or nothing: it only decorates an error."""
    try:
        async with asyncio.timeout(1):
            return await vm.console()
    except (OSError, VmmError, TimeoutError):
        return ""


async def before_exit(vm: Vm, work: Coroutine[Any, Any, T]) -> T:
    """:raises Failed: the VM ended first"""
    task = asyncio.create_task(work, name="talk to guest")
    ended = asyncio.create_task(vm.wait(), name="watch VM")
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        exit = ended.result()
        raise Failed(exit.reason, f"its VM ended: {exit.detail}", exit.console)
    finally:
        await cancelled(task, ended)


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, Any]) -> T:
    """Side by side; when one fails the other is still waited for, so that nothing goes on behind the caller's back."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        await asyncio.wait(tasks)
    finally:
        await cancelled(*tasks)
    tasks[1].result()
    return tasks[0].result()


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def failures(doing: str) -> Generator[None]:
    try:
        yield
    except VmmError as error:
        raise Failed(Reason.START_FAILED, f"{doing}: {error}") from error
    except OSError as error:
        raise Failed(Reason.START_FAILED, f"{doing}: {error.strerror or error}") from error


@asynccontextmanager
async def berth_of(host: Host, name: str) -> AsyncGenerator[Berth]:
    """:raises WrennError: no slot"""
    hold, slot = Hold(), await host.slots.acquire()
    try:
        with directory_of(host.files.paths.place(name), hold) as directory:
            yield Berth(slot, host.place(name, slot, directory), hold)
    finally:
        await _release(host, slot, hold)


async def _release(host: Host, slot: Slot, hold: Hold) -> None:
    if hold.detached:
        return
    try:
        await host.slots.release(slot)
    except OSError:
        # The rest of the teardown must go on; the pool finds the namespace again when it starts next.
        log.exception("a slot could not be released", action="slot_release", slot=slot.name)


@contextlib.contextmanager
def directory_of(path: Path, hold: Hold) -> Generator[Path]:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield path
    finally:
        if not hold.detached:
            with contextlib.suppress(
                OSError
            ):  # the driver has emptied it; what it left goes with the sandbox
                path.rmdir()
