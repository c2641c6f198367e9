"""Where a sandbox can go on from what of it is in an object store."""

from collections.abc import AsyncGenerator

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host
from wrenn_server.controlplane.scheduler.place import Saved
from wrenn_server.controlplane.services import placing
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.sandboxes import SandboxRow


async def hosts(cp: ControlPlane, row: SandboxRow) -> AsyncGenerator[Host]:
    """Other hosts than its own that a stored sandbox fits on, the best first; each is asked for when those before it had
    no room after all."""
    saved = saved_of(row)
    if saved is not None:
        async for host in placing.fitting(cp, row, image=row.image, tried={row.host_id or ""}, saved=saved):
            yield host


async def has_room(cp: ControlPlane, row: SandboxRow, host: HostRow) -> bool:
    """Whether another host could go on with what `host` stores of a sandbox of its own."""
    saved = Saved(host.store, host.machine, memory=row.saved_memory is not False)
    async for _ in placing.fitting(cp, row, image=row.image, tried={host.id}, saved=saved):
        return True
    return False


async def for_resume(cp: ControlPlane, row: SandboxRow) -> AsyncGenerator[Host]:
    """Hosts on which a paused sandbox may go on: its own, unless that is to become empty; others, from the object store;
    in the end its own in any case."""
    own = await db_hosts.get(cp.db, row.host_id) if row.host_id else None
    there = own is not None and own.status == "online"
    if own is not None and there and not own.draining:
        yield cp.host(own.id, own.address)
    if row.is_stored:
        async for host in hosts(cp, row):
            yield host
    if own is not None and there and own.draining:
        yield cp.host(own.id, own.address)


def saved_of(row: SandboxRow) -> Saved | None:
    """None: nothing of it is in an object store."""
    if row.stored_generation is None or row.stored_in is None or row.stored_machine is None:
        return None
    # What is not known to be without memory is taken to have some.
    return Saved(row.stored_in, row.stored_machine, memory=row.saved_memory is not False)
