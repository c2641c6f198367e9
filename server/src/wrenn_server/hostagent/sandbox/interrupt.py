"""Kills do not wait their turn: they break off what the owner of a sandbox is at."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from wrenn_server.hostagent.sandbox.messages import Call, Interrupted


class Interrupts:
    """One per sandbox."""

    def __init__(self) -> None:
        self._kills: set[int] = set()
        self._scope: asyncio.Timeout | None = None

    def kill(self, call: Call) -> None:
        """Breaks off what is breakable now, and what would be until the kill is `taken`."""
        self._kills.add(id(call))
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    def taken(self, call: Call) -> None:
        """The owner has it in hand."""
        self._kills.discard(id(call))

    @asynccontextmanager
    async def breakable(self) -> AsyncGenerator[None]:
        """Used by the owner's task alone.

        :raises Interrupted: a kill wants this to stop"""
        scope = asyncio.timeout(0 if self._kills else None)
        try:
            async with scope:
                self._scope = scope
                try:
                    yield
                finally:
                    self._scope = None
        except TimeoutError:
            if not scope.expired():
                raise
            raise Interrupted from None
