"""The disk of a running VM that is still on its way from the object store: its VMM asks for what the guest touches, over
NBD, and the rest comes meanwhile. See storage/lazy.py for why an agent may die at any moment of it; the VMM waits then
for the next one to listen."""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.storage import nbd
from wrenn_server.hostagent.storage.lazy import Fetch, LazyFile
from wrenn_server.hostagent.storage.threads import to_its_end
from wrenn_server.hostagent.vmm.base import Place, disk_socket
from wrenn_server.linux import files
from wrenn_server.linux.unix import short
from wrenn_server.model.errors import Unavailable, WrennError

CLIENTS = 2
"""A VMM has one connection, and may have lost one."""

log = structlog.get_logger()


async def served(host: Host, id: str, place: Place, stack: contextlib.AsyncExitStack) -> "LazyDisk | None":
    """The disk of a sandbox whose VM is at that place, if it is on its way still.

    :raises OSError:"""
    directory = host.files.paths.lazy(id)
    if not directory.exists():
        return None
    overlay, listen = host.files.paths.overlay(id), disk_socket(place)
    return await stack.enter_async_context(
        LazyDisk(overlay, directory, host.chunk, listen=listen, uid=place.uid)
    )


class LazyDisk:
    """An async context manager: serves from entering to leaving, and leaves all files as they are. What nobody touches
    comes as soon as somebody waits for it: a VM that starts needs the processors and the store for itself.

    :param overlay: made by `lazy.prepare`, as is `directory`
    :param listen: for NBD clients
    :param uid: of the VMM"""

    def __init__(self, overlay: Path, directory: Path, fetch: Fetch, *, listen: Path, uid: int) -> None:
        self._overlay, self._directory, self._fetch = overlay, directory, fetch
        self._listen, self._uid = listen, uid
        self._stack = contextlib.AsyncExitStack()
        self._clients: set[asyncio.Task[None]] = set()
        self._filling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """:raises OSError:"""
        async with contextlib.AsyncExitStack() as stack:
            self._file = await to_its_end(LazyFile.open, self._overlay, self._directory, self._fetch)
            stack.push_async_callback(self._file.close)
            stack.push_async_callback(self._stop)
            server = await asyncio.start_unix_server(self._serve, sock=self._bound())
            stack.callback(server.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def until_whole(self, limit: float | None = None) -> None:
        """:param limit: seconds
        :raises Unavailable: `disk_arriving`; :raises Internal: `snapshot_damaged`, some of it cannot be had"""
        filling = self._filling
        if filling is None or (filling.done() and (filling.cancelled() or filling.exception())):
            filling = self._filling = asyncio.create_task(self._fill(), name=f"fill {self._overlay}")
        try:
            async with asyncio.timeout(limit):
                await asyncio.shield(filling)
        except TimeoutError as error:
            raise Unavailable(
                f"the sandbox's disk is still on its way from the object store, {self._file.missing >> 20} MiB are missing",
                code="disk_arriving",
                hint="the sandbox runs on; try again in a while",
            ) from error

    async def forget(self) -> None:
        """The VM has the whole file now: no later agent will ask for more, and nobody is served any more."""
        await to_its_end(files.remove, self._directory)
        await self._stack.aclose()

    async def _fill(self) -> None:
        began = time.monotonic()
        try:
            await self._file.fill()
        except WrennError as error:
            log.error(
                "a disk cannot be fetched", action="fill_failed", path=str(self._overlay), error=str(error)
            )
            raise
        seconds = round(time.monotonic() - began, 2)
        log.info("a disk is whole", action="filled", fetched_bytes=self._file.fetched, seconds=seconds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= CLIENTS:
            writer.close()
            return
        self._clients.add(task)
        try:
            await nbd.serve(self._file, reader, writer)
        finally:
            self._clients.discard(task)

    async def _stop(self) -> None:
        ending = [*self._clients, *([self._filling] if self._filling else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _bound(self) -> socket.socket:
        self._listen.parent.mkdir(mode=0o711, exist_ok=True)
        self._listen.unlink(missing_ok=True)  # an earlier agent's
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        try:
            with short(self._listen) as path:
                listener.bind(path)
            os.chmod(self._listen, 0o600)
            os.chown(self._listen, self._uid, self._uid)
        except BaseException:
            listener.close()
            raise
        return listener
