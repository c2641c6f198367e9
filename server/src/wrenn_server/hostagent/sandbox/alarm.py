"""The end of a sandbox's time to live, by the host's clock."""

import asyncio
from collections.abc import Callable

from wrenn_server.hostagent.sandbox.clock import Clock


class Alarm:
    """Rings once, for the moment that was set last."""

    def __init__(self, clock: Clock, ring: Callable[[float], None], name: str) -> None:
        """:param ring: called with the moment that was set"""
        self._clock = clock
        self._ring = ring
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def set(self, when: float | None, *, not_before: float = 0.0) -> None:
        """:param when: Unix seconds; None: never"""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if when is not None:
            self._task = asyncio.create_task(self._wait(when, not_before), name=self._name)

    async def _wait(self, when: float, not_before: float) -> None:
        await self._clock.sleep_until(max(when, not_before))
        self._ring(when)
