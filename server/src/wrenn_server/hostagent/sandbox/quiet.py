"""What is urgent goes first: what only prepares or secures waits while a sandbox is being started, paused or copied."""

import asyncio
import math
from collections.abc import Generator
from contextlib import contextmanager

PATIENCE = 2.0
"""Seconds that a piece of an upload waits at most: a host that never rests must not leave its sandboxes unsaved."""
REST = 2.0
"""Seconds since the end of the last urgent thing after which the host rests: whoever waited for it uses it at once."""


class Quiet:
    def __init__(self) -> None:
        self._urgent = 0
        self._ended = -math.inf
        """When the last urgent thing did, by the loop's clock."""
        self._none, self._some = asyncio.Event(), asyncio.Event()
        self._none.set()

    @contextmanager
    def broken(self) -> Generator[None]:
        """While something urgent goes on."""
        self._urgent += 1
        self._none.clear()
        self._some.set()
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._ended = asyncio.get_running_loop().time()
                self._some.clear()
                self._none.set()

    async def turn(self) -> None:
        """Returns when nothing urgent goes on, or after `PATIENCE` seconds."""
        if self._urgent:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._none.wait()
            except TimeoutError:
                pass

    async def rest(self) -> None:
        """Returns when nothing urgent goes on and nothing has for `REST` seconds, however long that takes."""
        loop = asyncio.get_running_loop()
        while self._urgent or loop.time() < self._ended + REST:
            await self._none.wait()
            try:
                async with asyncio.timeout_at(self._ended + REST):
                    await self._some.wait()
            except TimeoutError:
                pass
