"""A program's own API behind its listener: an ASGI application on a Unix socket that nobody else knows."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message that comes through a WebSocket; what is longer ends it with code 1009."""
_SECOND = 1.0


@asynccontextmanager
async def served(app: Any, listening: socket.socket) -> AsyncGenerator[None, None]:
    """Leaving ends idle connections at once; what is being answered is finished first.

    :param listening: stays its owner's
    """
    # The listener in front has told the truth about the client already, and written its own log.
    settings = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
    )
    server = _Server(settings)
    task = asyncio.create_task(server.serve(sockets=[listening]), name="api")
    try:
        yield
    finally:
        server.stop()
        await task


class _Server(uvicorn.Server):
    """Wakes once a second for the `Date`, and to end; uvicorn's own looks ten times a second whether it shall end,
    and takes two of these looks for that."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._told.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the program's business."""
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECOND):
                    await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # those that are idle are lost in the loop's next turn
        if state.connections or state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
            await server.wait_closed()
