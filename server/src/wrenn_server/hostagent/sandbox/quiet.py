"""What is urgent goes first: uploads wait while a sandbox is being started, paused or copied."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

PATIENCE = 2.0
"""Seconds that a piece of an upload waits at most: a host that never rests must not leave its sandboxes unsaved."""


class Quiet:
    def __init__(self) -> None:
        self._urgent = 0
        self._rests = asyncio.Event()
        self._rests.set()

    @contextmanager
    def broken(self) -> Generator[None]:
        """While something urgent goes on."""
        self._urgent += 1
        self._rests.clear()
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._rests.set()

    async def turn(self) -> None:
        """Returns when nothing urgent goes on."""
        if self._urgent:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._rests.wait()
            except TimeoutError:
                pass
