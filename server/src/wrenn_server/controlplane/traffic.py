"""What the edge does with each request to the public port: sandbox traffic to the sandbox's port, all else to the API.

```
request ─► route (pure) ─┬─ names a sandbox ──────────────┐
                         ├─ signed link to a file ─► whose? ┴─► private? ─► asleep: wake it ─► tunnel to its port
                         └─ else ─► the API's unix socket
```
"""

import asyncio
from collections import OrderedDict

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import wakes
from wrenn_server.controlplane.services.routes import Location, told
from wrenn_server.controlplane.services.signed import Signed
from wrenn_server.edge import answers, route
from wrenn_server.edge.sandbox import SANDBOX_NOT_FOUND, sandbox_upstream
from wrenn_server.edge.target import Again, Answer, Peer, Target, Upstream
from wrenn_server.model.errors import NotFound, WrennError
from wrenn_server.model.ids import SandboxId
from wrenn_server.model.sandbox import State
from wrenn_server.wire import envd
from wrenn_server.wire.head import Head
from wrenn_server.wire.stream import Stream, connect_unix

API_KEEP = 4.0
"""Seconds; uvicorn closes idle connections after 5."""
SETTLE_TIMEOUT = 60.0
"""Seconds that a request waits for a pause or resume that somebody else does."""
NEWS_TIMEOUT = 5.0
"""Seconds until the control plane has heard from a host what became of a sandbox."""
_REMEMBERED = 20_000


class Traffic:
    """`choose` is the listener's route."""

    def __init__(self, cp: ControlPlane, api_socket: str) -> None:
        self._cp = cp
        self._api = Upstream(connect=lambda: connect_unix(api_socket), key=("api",), keep=API_KEEP)
        self._signed = Signed(cp.db)
        self._upstreams: OrderedDict[tuple[SandboxId, int], tuple[Location, Upstream]] = OrderedDict()
        self._gone: dict[SandboxId, int] = {}
        """Sandboxes to be woken whose host said that they do not run, before we heard why: the generation."""
        self._settling: dict[SandboxId, asyncio.Task[Location]] = {}

    async def choose(self, head: Head, peer: Peer) -> Target:
        """:raises WrennError:"""
        match route.route(head):
            case route.ToSandbox(id=sandbox_id, port=port):
                return await self._to_sandbox(head, sandbox_id, port)
            case route.Refuse(answer):
                return answer
            case route.ToApi():
                link = route.signed_file(head)
                return self._api if link is None else await self._to_file(head, link)

    async def _to_file(self, head: Head, link: route.SignedFile) -> Target:
        found = await self._signed.sandbox_of(link)
        return found if isinstance(found, Answer) else await self._to_sandbox(head, found, envd.PORT)

    async def _to_sandbox(self, head: Head, sandbox_id: SandboxId, port: int) -> Target:
        try:
            location = await self._cp.routes.locate(sandbox_id)
            if not _may_enter(head, port, location):  # nor wake it
                return answers.secured(sandbox_id, missing=route.TRAFFIC_TOKEN not in head.fields)
            if location.state is not State.RUNNING or sandbox_id in self._gone:
                location = await self._awake(sandbox_id, location)
        except NotFound:
            return answers.sandbox_not_found(sandbox_id)
        if location.state is not State.RUNNING:
            return answers.sandbox_not_found(sandbox_id)
        return self._upstream(sandbox_id, port, location)

    def _upstream(self, sandbox_id: SandboxId, port: int, location: Location) -> Upstream:
        known = self._upstreams.get((sandbox_id, port))
        if known is not None and known[0] is location:
            return known[1]

        asked = False

        async def dial() -> Stream:
            nonlocal asked
            try:
                return await self._cp.routes.open_tunnel(sandbox_id, port)
            except WrennError as error:
                if error.code != SANDBOX_NOT_FOUND or not location.auto_resume or asked:
                    raise
                # Its time may have ended a moment ago: the host has paused it and we have not heard of it.
                asked = True
                self._gone[sandbox_id] = location.generation
                raise Again from error

        upstream = sandbox_upstream(sandbox_id, location.generation, port, dial, mask_host=location.mask_host)
        self._upstreams[sandbox_id, port] = location, upstream
        if len(self._upstreams) > _REMEMBERED:
            self._upstreams.popitem(last=False)
        return upstream

    async def _awake(self, sandbox_id: SandboxId, location: Location) -> Location:
        """Where the sandbox is once it runs, if it is one that runs again by itself or for this request.

        :raises WrennError: it was to be woken and could not
        """
        if _on_its_way(location) or sandbox_id in self._gone:
            location = await self._settled(sandbox_id)
        if location.state is State.PAUSED and location.auto_resume:
            location = await wakes.wake(self._cp, sandbox_id, location)
        return location

    async def _settled(self, sandbox_id: SandboxId) -> Location:
        """One look for all requests that wait for the same sandbox; who leaves does not stop it for the others."""
        settling = self._settling.get(sandbox_id)
        if settling is None:
            settling = asyncio.create_task(self._settle(sandbox_id), name=f"settle {sandbox_id}")
            self._settling[sandbox_id] = settling
            settling.add_done_callback(lambda done: self._end_settling(sandbox_id, done))
        return await asyncio.shield(settling)

    async def _settle(self, sandbox_id: SandboxId) -> Location:
        """:raises NotFound:"""
        loop = asyncio.get_running_loop()
        began = loop.time()
        with self._cp.routes.watching(sandbox_id) as changed:
            while True:
                changed.clear()
                location = await self._cp.routes.locate(sandbox_id)
                stale = location.state is State.RUNNING and self._gone.get(sandbox_id) == location.generation
                patience = SETTLE_TIMEOUT if _on_its_way(location) else NEWS_TIMEOUT if stale else 0.0
                left = began + patience - loop.time()
                if left <= 0:
                    return location
                await told(changed, left)

    def _end_settling(self, sandbox_id: SandboxId, done: "asyncio.Task[Location]") -> None:
        del self._settling[sandbox_id]
        self._gone.pop(sandbox_id, None)
        if not done.cancelled():
            done.exception()  # those who wait were told


def _may_enter(head: Head, port: int, location: Location) -> bool:
    """envd has a token of its own."""
    token = location.traffic_token
    return token is None or port == envd.PORT or route.carries(head, token)


def _on_its_way(location: Location) -> bool:
    """Somebody resumes it, or pauses what would be woken afterwards."""
    return location.state is State.RESUMING or (location.state is State.PAUSING and location.auto_resume)
