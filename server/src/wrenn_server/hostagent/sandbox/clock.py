"""The host's wall clock, which decides when sandboxes end. Tests bring their own."""

import asyncio
import time
from typing import Protocol

_STEP = 30.0
"""Seconds. The wall clock may be set while we sleep by the monotonic one; so we look again this often."""


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Returns at or after `when` (Unix seconds)."""
        ...


class WallClock:
    def now(self) -> float:
        return time.time()

    async def sleep_until(self, when: float) -> None:
        while (left := when - self.now()) > 0:  # noqa: ASYNC110 - a wall clock has no event
            await asyncio.sleep(min(left, _STEP))
