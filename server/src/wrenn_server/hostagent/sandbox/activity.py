"""When sandboxes were last used, for those whose time to live is put off by that. Nobody looks until it is over.

What goes through tunnels is noted here as it goes; of programs and terminals the guest is asked. A guest may say that it
is busy for as long as it likes: it could be as well, and who chose that a program keeps it alive pays for it.
"""

from collections.abc import Iterable

from wrenn_server.hostagent.guest.client import Connect, Guest, GuestFailed
from wrenn_server.hostagent.sandbox.clock import Clock
from wrenn_server.model.sandbox import Activity
from wrenn_server.wire import envd

INSIDE = frozenset({Activity.TERMINAL, Activity.COMMAND})


class Used:
    """Of all sandboxes of a host. Times are Unix seconds by the host's clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.now()
        self._last: dict[str, dict[Activity, float]] = {}

    def note(self, id: str, port: int) -> None:
        """Bytes have just gone through a tunnel to that port."""
        kind = Activity.API if port == envd.PORT else Activity.TRAFFIC
        self._last.setdefault(id, {})[kind] = self._clock.now()

    def forget(self, id: str) -> None:
        """It does not run any more."""
        self._last.pop(id, None)

    def last(self, id: str, kinds: Iterable[Activity]) -> float | None:
        """The agent before may have seen what this one has not: its end counts as a use."""
        times = self._last.get(id, {})
        return max((times.get(kind, self._began) for kind in kinds if kind not in INSIDE), default=None)


async def inside(
    guest: Guest, connect: Connect, token: str, kinds: Iterable[Activity], now: float
) -> float | None:
    """When a program last ran in the guest, or a terminal was attached; None: never, or it does not answer."""
    wanted = INSIDE.intersection(kinds)
    if not wanted:
        return None
    try:
        idle = await guest.idle(connect, token)
    except GuestFailed:
        return None
    seconds = [idle.command if kind is Activity.COMMAND else idle.terminal for kind in wanted]
    return max((now - max(0.0, second) for second in seconds if second is not None), default=None)
