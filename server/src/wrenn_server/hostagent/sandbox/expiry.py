"""Whether a sandbox whose time is over has been used meanwhile, so that its time goes on."""

from msgspec.structs import replace

from wrenn_server.hostagent.sandbox import activity, lifecycle, recipe
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.interrupt import Interrupts
from wrenn_server.hostagent.sandbox.recipe import Box
from wrenn_server.hostagent.sandbox.record import Record


async def put_off(host: Host, record: Record, interrupts: Interrupts, box: Box) -> float | None:
    """When it ends now, in Unix seconds; the journal says so. None: at once.

    :raises Interrupted: it is being killed"""
    entry = record.entry
    if entry.keep_alive is None:
        return None
    now, by, idle = host.clock.now(), entry.keep_alive.by, entry.keep_alive.idle_sec
    expires = lifecycle.put_off(idle, host.used.last(entry.id, by), now)
    if expires is None:
        async with interrupts.breakable():
            way = recipe.to_envd(host, box.slot)
            seen = await activity.inside(host.guest, way, entry.access_token, by, now)
        expires = lifecycle.put_off(idle, seen, now)
    if expires is not None:
        await record.note(replace(entry, expires_at=expires, put_off=True))
    return expires
