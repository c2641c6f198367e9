"""Where a running sandbox is: for the edge, and for our own calls to envd.

Answers are remembered until PostgreSQL tells that the sandbox or its host changed. While nobody tells (the listening
connection is lost), nothing is remembered.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from wrenn_server.controlplane.hosts_client import Host
from wrenn_server.db import sandboxes
from wrenn_server.db.pool import Database
from wrenn_server.model.address import Address
from wrenn_server.model.errors import NotFound, WrennError
from wrenn_server.model.ids import SandboxId
from wrenn_server.model.sandbox import State
from wrenn_server.wire.stream import Stream

CHANNEL = "wrenn"
_REMEMBERED = 20_000
_RECONNECT_SEC = 1.0
_LOOK_SEC = 0.5

log = structlog.get_logger()


class Tunnels(Protocol):
    """The part of `HostsClient` that is needed here."""

    async def tunnel(self, host: Host, sandbox_id: str, port: int) -> Stream: ...


@dataclass(frozen=True, slots=True)
class Location:
    host_id: str | None
    address: Address | None
    """None: the sandbox is on no host."""
    state: State
    generation: int
    team_id: str
    access_token: str = field(repr=False)
    """envd's, of this sandbox."""
    auto_resume: bool = False
    """Requests wake it when it is paused."""
    traffic_token: str | None = field(default=None, repr=False)
    """What requests to its ports must carry; None: they are open to all."""
    mask_host: str | None = None


class Routes:
    def __init__(self, db: Database, tunnels: Tunnels, default_address: Address) -> None:
        self._db = db
        self._tunnels = tunnels
        self._default = default_address
        self._known: OrderedDict[str, Location] = OrderedDict()
        self._listening = False
        self._changes = 0
        self._watching: dict[str, set[asyncio.Event]] = {}
        self.on_gone: list[Callable[[str], None]] = []
        """Called with the id of a sandbox that stopped running where it was."""
        self.on_news: list[Callable[[str, str], None]] = []
        """Called with kind and name of all else that is told on the channel; with "" twice when something may have been
        missed."""

    async def locate(self, sandbox_id: SandboxId) -> Location:
        """
        :raises NotFound: no such sandbox
        :raises DatabaseUnavailable:
        """
        if (known := self._known.get(sandbox_id)) is not None:
            return known
        changes = self._changes
        found = await sandboxes.locate(self._db, sandbox_id)
        if found is None:
            raise NotFound(f"sandbox {sandbox_id} does not exist", code="sandbox_not_found")
        location = Location(
            host_id=found.host_id,
            address=self.agent_address(found.address) if found.host_id else None,
            state=found.state,
            generation=found.generation,
            team_id=found.team_id,
            access_token=found.access_token,
            auto_resume=found.auto_resume,
            traffic_token=found.traffic_token,
            mask_host=found.mask_host,
        )
        # What was read may be older than a change that was told meanwhile.
        if found.state is State.RUNNING and self._listening and changes == self._changes:
            self._known[sandbox_id] = location
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return location

    async def open_tunnel(self, sandbox_id: SandboxId, port: int) -> Stream:
        """A TCP connection to a port of a running sandbox.

        :raises NotFound: no such sandbox, or it does not run (code `sandbox_not_found`)
        :raises WrennError: the agent refused (`port_not_open`, …)
        :raises OSError: the agent cannot be reached
        :raises TimeoutError:
        """
        location = await self.locate(sandbox_id)
        if location.state is not State.RUNNING or location.address is None or location.host_id is None:
            raise NotFound(f"sandbox {sandbox_id} is {location.state}", code="sandbox_not_found")
        return await self._tunnels.tunnel(Host(location.host_id, location.address), sandbox_id, port)

    def agent_address(self, address: str | None) -> Address:
        return self._default if address is None else Address.parse(address)

    def forget(self, sandbox_id: str) -> None:
        """The sandbox is changing: whoever asks next must look, and connections to where it was end."""
        self._changes += 1
        self._tell(sandbox_id)
        self._known.pop(sandbox_id, None)
        # Also when nothing is remembered of it: a change of its host has been heard before, and connections live on.
        for call in self.on_gone:
            call(sandbox_id)

    @contextlib.contextmanager
    def watching(self, sandbox_id: str) -> Generator[asyncio.Event]:
        """An event that is set whenever the sandbox stopped running where it was, or a pause or resume of it ended, or
        this may have been missed. Of the end of a start nobody tells.

        :param sandbox_id: or a team's: whenever those who wait for its pool should look again
        """
        changed = asyncio.Event()
        self._watching.setdefault(sandbox_id, set()).add(changed)
        try:
            yield changed
        finally:
            self._watching[sandbox_id].remove(changed)
            if not self._watching[sandbox_id]:
                del self._watching[sandbox_id]

    def _tell(self, sandbox_id: str) -> None:
        for changed in self._watching.get(sandbox_id, ()):
            changed.set()

    def _heard(self, payload: str) -> None:
        kind, _, name = payload.partition(" ")
        if kind == "sandbox":
            self.forget(name)
        elif kind == "pool":
            self._tell(name)
        elif kind == "settled":
            # Not to be forgotten: who looked before this arrived may have found it running, and be using it.
            self._tell(name)
        elif kind == "host":
            self._changes += 1
            for sandbox_id in [s for s, location in self._known.items() if location.host_id == name]:
                del self._known[sandbox_id]
        else:
            self._news(kind, name)

    def _news(self, kind: str, name: str) -> None:
        for call in self.on_news:
            call(kind, name)

    async def listen(self) -> None:
        """Runs for ever: hears of changes, and starts anew when the connection is lost."""
        while True:
            try:
                async with self._db.listening(CHANNEL, self._heard) as lost:
                    self._listening = True
                    self._news("", "")
                    await lost.wait()
            except WrennError as error:
                log.warning("cannot listen for changes", action="listen_failed", error=error.message)
            finally:
                self._listening = False
                self._changes += 1
                self._known.clear()
                for sandbox_id in self._watching:
                    self._tell(sandbox_id)
            await asyncio.sleep(_RECONNECT_SEC)


async def told(changed: asyncio.Event, within: float) -> None:
    """Waits for an event of `watching`, at most `within` seconds, and never long: while PostgreSQL cannot be heard, and
    of a sandbox that starts, looking again is all there is."""
    try:
        async with asyncio.timeout(min(within, _LOOK_SEC)):
            await changed.wait()
    except TimeoutError:
        pass


@contextlib.asynccontextmanager
async def listening(routes: Routes) -> AsyncGenerator[None, None]:
    listener = asyncio.create_task(routes.listen(), name="listen for changes")
    try:
        yield
    finally:
        listener.cancel()
        await asyncio.wait([listener])
