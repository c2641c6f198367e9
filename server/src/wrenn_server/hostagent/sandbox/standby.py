"""A VM of a template, restored before anybody has asked for it, and how it becomes a sandbox."""

from collections.abc import Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
from msgspec.structs import replace

from wrenn_server.hostagent.guest.client import REHEARSAL, anonymous
from wrenn_server.hostagent.sandbox import recipe
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.recipe import Box, Failed, Hold, Steps
from wrenn_server.hostagent.sandbox.warm import Ready, watched
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.vmm.base import Vm
from wrenn_server.linux.crash import crash_point
from wrenn_server.wire import envd

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Restored(Ready):
    """It stands still and is nobody's yet. The overlay has the berth's name for now."""

    host: Host
    vm: Vm

    async def become(
        self, entry: Entry, saved: Saved, stack: AsyncExitStack, steps: Steps, init: Callable[[], envd.Init]
    ) -> Box | None:
        """See `recipe.Standby`."""
        host, slot = self.host, self.berth.slot
        async with AsyncExitStack() as attempt:
            await attempt.enter_async_context(self.stack)
            # Before it moves: no packet of the sandbox is judged by other rules than its own.
            egress = await attempt.enter_async_context(host.slots.enforcing(slot, entry.network))
            crash_point("standby.egress_enforced")
            entry = replace(entry, slot=slot.index, image=str(saved.image), place=self.name)
            try:
                with recipe.failures(f"waking {self.name} as {entry.id}"):
                    overlay = await recipe.both(
                        host.files.move_overlay(self.name, entry.id), host.journal.write(entry)
                    )
                    steps.done("disk")
                    crash_point("standby.intent_written")
                    await self.vm.resume()
                    crash_point("standby.woken")
                    introduced = await recipe.introduce(host, slot, self.vm, init, None)
                    steps.done("guest")
                    crash_point("standby.introduced")
            except Failed as failure:
                log.warning(
                    "a VM that stood by did not wake",
                    action="wake_failed",
                    sandbox_id=entry.id,
                    name=self.name,
                    error=str(failure),
                )
                return None
            await stack.enter_async_context(attempt.pop_all())
            return Box(entry, slot, egress, self.vm, overlay, introduced, None, hold=self.berth.hold)


def kind(_entry: Entry, memory: Path) -> Hashable:
    """A template's memory is of one image and one shape."""
    return memory


async def restored(host: Host, name: str, entry: Entry, saved: Saved) -> Restored:
    """Ready to become any sandbox of the entry's template and shape.

    :param name: a new sandbox's id
    :raises Failed: :raises GuestFailed: it did not come to life, and nothing is left of it
    :raises WrennError: no slot"""
    async with AsyncExitStack() as stack:
        berth = await stack.enter_async_context(recipe.berth_of(host, name))
        stack.push_async_callback(_discard, host, name, berth.hold)
        with recipe.failures(f"restoring a VM of {entry.template} to stand by"):
            overlay = await host.files.clone_overlay(saved, name, berth.slot.uid)
            spec = host.spec(replace(entry, image=str(saved.image)), overlay)
            restoring = host.driver.restore(spec, berth.place, saved.memory or overlay)
            vm = await stack.enter_async_context(restoring)
            crash_point("standby.restored")
            # Once before it counts: what the guest does then is in its memory and, emulated, translated.
            way = recipe.to_envd(host, berth.slot)
            await recipe.before_exit(vm, host.guest.warm_up(way, anonymous(name), REHEARSAL))
            await vm.pause()
            crash_point("standby.ready")
        watch = watched(vm, name, stack)
        return Restored(berth, stack.pop_all(), watch, host, vm)


async def _discard(host: Host, name: str, hold: Hold) -> None:
    if not hold.detached:
        await host.files.remove(name, keep_journal=False)
