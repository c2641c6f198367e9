"""Tells the control plane, again and again, what is true on this host.

Every 30 seconds, and at once after a change; changes in quick succession make one heartbeat. Whatever the control
plane answers, or when it does not, the agent goes on: its sandboxes live by the journal and by their own time.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials
from wrenn_server.hostagent.renewal import Renewal
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.model.errors import WrennError
from wrenn_server.wire.agent import Heartbeat, HostSpecs, SandboxReport

INTERVAL = 30.0
TIMEOUT = 10.0
COALESCE = 0.05
"""Seconds: a burst of changes is told once."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between tries while they fail, with jitter: a control plane that comes back meets all its hosts at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is told; asked anew for each heartbeat."""

    address: str | None
    started_at: float
    specs: Callable[[], Awaitable[HostSpecs]]
    sandboxes: Callable[[], list[SandboxReport]]
    templates: Callable[[], list[str]]
    snapshots: Callable[[], dict[str, str]] = dict
    installation: str = ""


class Heart:
    """`run` beats until it is cancelled. `wake` may be called at any time, and carries no news itself."""

    def __init__(
        self,
        control_plane: ControlPlane,
        credentials: Credentials,
        content: Content,
        renewal: Renewal | None = None,
    ) -> None:
        """:param renewal: of the credentials; looked after before each heartbeat, the first use of a new token"""
        self._control_plane = control_plane
        self._credentials = credentials
        self._content = content
        self._renewal = renewal
        self._changed = asyncio.Event()
        self._sequence = 0
        self.last_success: float | None = None
        """By the event loop's clock."""

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._changed.clear()
            if self._renewal is not None:
                await self._renewal.keep()
            if await self._beat():
                pause = FIRST_PAUSE
                await self._wait(INTERVAL)
                await asyncio.sleep(COALESCE)
            else:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _beat(self) -> bool:
        self._sequence += 1
        content = self._content
        try:
            beat = Heartbeat(
                specs=await content.specs(),
                address=content.address,
                sequence=self._sequence,
                started_at=content.started_at,
                sandboxes=content.sandboxes(),
                templates=content.templates(),
                snapshots=content.snapshots(),
                installation=content.installation,
            )
            path = f"/v1/hosts/{self._credentials.host_id}/heartbeat"
            await self._control_plane.post(path, beat, timeout=TIMEOUT, token=self._credentials.token)
        except WrennError as error:
            hint = "the sandboxes stay; to join again: POST /v1/hosts/{id}/token, then wrenn-agent --register TOKEN"
            log.warning(
                "heartbeat refused",
                action="heartbeat_refused",
                code=error.code,
                detail=error.message,
                hint=hint,
            )
            return False
        except (OSError, TimeoutError, VmmError) as error:
            log.warning(
                "heartbeat failed", action="heartbeat_failed", error=str(error) or "no answer in time"
            )
            return False
        self.last_success = asyncio.get_running_loop().time()
        return True
