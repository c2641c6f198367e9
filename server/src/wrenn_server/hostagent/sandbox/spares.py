"""A VMM that was started before anybody has asked for it: with a slot, a directory and a control group of its own, and with
the memory of a template, but without disks, devices' state or a name that anybody knows."""

from collections.abc import Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.hostagent.sandbox import recipe
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.warm import Ready, watched
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.vmm.base import Ahead, Vmm, VmmError
from wrenn_server.linux.crash import crash_point

NO_DISK = Path("/dev/null")


@dataclass(frozen=True, slots=True)
class Started(Ready):
    """See `recipe.Spare`."""

    vmm: Vmm


class Spares:
    """How they are made, and which can serve whom."""

    def __init__(self, host: Host, ahead: Ahead) -> None:
        self._host, self._ahead = host, ahead

    def kind(self, entry: Entry, memory: Path) -> Hashable:
        """:raises OSError: there is no such memory"""
        return self._ahead.kind(self._host.spec(entry, NO_DISK), memory)

    async def start(self, name: str, entry: Entry, saved: Saved) -> Started:
        """:param name: a new sandbox's id
        :raises Failed: it did not start, and nothing is left of it; :raises WrennError: no slot"""
        host = self._host
        async with AsyncExitStack() as stack:
            berth = await stack.enter_async_context(recipe.berth_of(host, name))
            with recipe.failures(f"starting a VMM for {entry.template}"):
                if saved.memory is None:
                    raise VmmError("there is no memory to start it with")
                starting = self._ahead.start(host.spec(entry, NO_DISK), berth.place, saved.memory)
                vmm = await stack.enter_async_context(starting)
            crash_point("spare.started")
            watch = watched(vmm, name, stack)
            return Started(berth, stack.pop_all(), watch, vmm)
