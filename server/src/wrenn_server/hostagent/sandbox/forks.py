"""Copies of a running sandbox: it is saved once, and each copy starts from that by itself."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.sandbox.messages import Call, Checkpoint, Lease
from wrenn_server.hostagent.sandbox.owner import Owner
from wrenn_server.hostagent.sandbox.recipe import Source
from wrenn_server.hostagent.storage.sealed import Saved, saved_in
from wrenn_server.hostagent.storage.snapshots import Snapshots
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.errors import Conflict, WrennError
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent as wire


class Start(Protocol):
    """As the registry starts sandboxes."""

    async def __call__(
        self, entry: Entry, lease: Lease, source: Source, *, proof: str | None
    ) -> wire.SandboxReport: ...


class Forks:
    def __init__(self, snapshots: Snapshots, start: Start, is_known: Callable[[str], bool]) -> None:
        """:param is_known: whether a sandbox of that id is here"""
        self._snapshots = snapshots
        self._start = start
        self._is_known = is_known

    async def make(self, owner: Owner, body: wire.Fork) -> wire.ForkReport:
        """:raises WrennError: none was started, and the source runs on"""
        async with AsyncExitStack() as stack:
            saved, parent = None, owner.entry
            if not all(self._is_known(target.id) for target in body.targets):
                directory = await stack.enter_async_context(
                    self._snapshots.checkpointing(memory_mb=owner.entry.memory_mb)
                )
                checkpoint = Checkpoint(directory)
                await owner.ask(Call(Command.FORK, body.generation, checkpoint=checkpoint))
                parent = checkpoint.of or parent
                saved = saved_in(directory, Path(parent.image or ""))
                crash_point("fork.checkpointed")
            results = [self._one(parent, target, saved) for target in body.targets]
            report = wire.ForkReport(list(await asyncio.gather(*results)))
            crash_point("fork.started")
        crash_point("fork.cleared")
        return report

    async def _one(self, parent: Entry, target: wire.ForkTarget, saved: Saved | None) -> wire.ForkResult:
        entry = replace(
            parent,
            id=target.id,
            generation=target.generation,
            state=State.STARTING,
            access_token=target.access_token,
            expires_at=None,
            slot=None,
            place=None,
            vm=None,
        )

        @asynccontextmanager
        async def source() -> AsyncGenerator[Saved]:
            if saved is None:
                raise Conflict("its checkpoint is no more", code="fork_failed")
            yield saved

        lease = Lease(target.ttl_sec, target.on_timeout, target.pause_memory, target.keep_alive)
        try:
            report = await self._start(entry, lease, source, proof=parent.access_token)
        except WrennError as error:
            return wire.ForkResult(id=target.id, error_code=error.code, error_message=error.message)
        return wire.ForkResult(id=target.id, report=report)
