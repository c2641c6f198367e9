"""Memory snapshots of booted templates, one per shape, made when the first sandbox of that shape is wanted.

A template is booted once, cold, until its envd answers; it has then no token, no identity and no secret in memory.
Whoever asks for the same shape meanwhile waits for the same boot. The boot belongs to nobody who asked: it goes on
when they go away.
"""

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from wrenn_server.hostagent.sandbox import recipe
from wrenn_server.hostagent.sandbox.files import TEMPLATE
from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.recipe import Failed
from wrenn_server.hostagent.storage import templates as storage
from wrenn_server.hostagent.storage.sealed import Saved, is_sealed, saved_in
from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.linux.crash import crash_point
from wrenn_server.linux.process import CommandFailed
from wrenn_server.model.errors import Internal, NotFound, Unavailable
from wrenn_server.model.sandbox import State

TRIES = 2
"""One boot in ten hung under software emulation before the guest was given the TSC's frequency: worth a second try."""
BOOTS_AT_ONCE = 1
"""A boot takes all the processor it gets, and has a deadline."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a memory snapshot is good for. Memory and disk in MiB."""

    template: str
    vcpus: int
    memory_mb: int
    disk_mb: int


@dataclass(frozen=True, slots=True)
class Prepared:
    saved: Saved
    boot_seconds: float
    """0.0 when it was there before."""


class Templates:
    """An async context manager: leaving breaks off the boots that are going on."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._boots: dict[str, asyncio.Task[Prepared]] = {}
        self._turn = asyncio.Semaphore(BOOTS_AT_ONCE)
        self._proven: dict[str, Saved] = {}
        """Found whole since this process started: reading all of it again would cost each create."""
        self._version = ""

    async def __aenter__(self) -> "Templates":
        self._version = await self._host.driver.version()
        return self

    async def __aexit__(self, *_: object) -> None:
        boots = list(self._boots.values())
        for boot in boots:
            boot.cancel()
        await asyncio.gather(*boots, return_exceptions=True)

    def names(self) -> list[str]:
        """Templates that this host can start."""
        return self._host.files.images.names()

    async def prepare(self, shape: Shape) -> Prepared:
        """:raises NotFound: no such template on this host; :raises Internal: it does not boot"""
        files = self._host.files
        image = files.images.find(shape.template)
        if image is None:
            raise NotFound(f"this host has no template {shape.template!r}", code="template_not_found")
        pinned = await asyncio.to_thread(files.images.pin, image)
        key = self._key(shape, pinned)
        known = self._proven.get(key)
        if known is not None and is_sealed(known.overlay.parent):
            return Prepared(known, 0.0)
        boot = self._boots.get(key)
        if boot is None:
            boot = asyncio.create_task(self._find_or_make(shape, pinned, key), name=f"boot {shape.template}")
            self._boots[key] = boot
            boot.add_done_callback(lambda done: self._forget(key, done))
        try:
            return await asyncio.shield(boot)
        except asyncio.CancelledError:
            if boot.cancelled():
                raise Unavailable("the agent is stopping") from None
            raise

    def _forget(self, key: str, boot: "asyncio.Task[Prepared]") -> None:
        del self._boots[key]
        if not boot.cancelled() and boot.exception() is None:  # asking for the exception marks it as seen
            self._proven[key] = boot.result().saved

    def _key(self, shape: Shape, image: Path) -> str:
        paths = self._host.files.paths
        return storage.key(
            template=shape.template,
            vcpus=shape.vcpus,
            memory_mb=shape.memory_mb,
            disk_mb=shape.disk_mb,
            files=(image, paths.kernel, paths.initrd),
            driver=self._host.driver.name,
            version=self._version,
        )

    async def _find_or_make(self, shape: Shape, image: Path, key: str) -> Prepared:
        async with self._turn:
            saved = await self._host.files.templates.find(key)
            if saved is not None:
                return Prepared(saved, 0.0)
            for _ in range(TRIES - 1):
                with contextlib.suppress(Internal):
                    return await self._try(shape, image, key)
            return await self._try(shape, image, key)

    async def _try(self, shape: Shape, image: Path, key: str) -> Prepared:
        started = asyncio.get_running_loop().time()
        try:
            saved = await self._boot(shape, image, key)
        except (Failed, VmmError, OSError, CommandFailed) as error:
            console = error.console if isinstance(error, Failed) else ""
            log.warning(
                "a template did not boot",
                action="template_failed",
                template=shape.template,
                error=str(error),
                console=console[-600:],
            )
            message = f"template {shape.template!r} does not boot: {error}"
            raise Internal(message, code="template_failed") from error
        seconds = asyncio.get_running_loop().time() - started
        log.info(
            "template booted", action="template_booted", template=shape.template, seconds=round(seconds, 2)
        )
        return Prepared(saved, seconds)

    async def _boot(self, shape: Shape, image: Path, key: str) -> Saved:
        host = self._host
        name = TEMPLATE + hashlib.sha256(key.encode()).hexdigest()[:20]
        entry = Entry(
            id=name,
            generation=0,
            state=State.STARTING,
            template=shape.template,
            template_id="",
            team_id="",
            vcpus=shape.vcpus,
            memory_mb=shape.memory_mb,
            disk_mb=shape.disk_mb,
            access_token="",
            image=str(image),
        )
        async with host.files.templates.making(key, image) as making:

            async def overlay(uid: int) -> Path:
                await host.files.overlays.create(making.overlay, shape.disk_mb, owner=uid)
                return making.overlay

            async with recipe.booted(host, name, entry, overlay) as vm:
                await vm.pause()
                await vm.snapshot(making.memory)
                crash_point("template.memory_written")
        crash_point("template.sealed")
        return saved_in(host.files.paths.templates / key, image)
