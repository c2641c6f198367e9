"""What is known of one sandbox: in memory, in the journal, and told to those who care."""

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire.agent import SandboxReport


class Record:
    """Changed by the sandbox's owner alone."""

    def __init__(self, host: Host, entry: Entry, log: FilteringBoundLogger) -> None:
        self.entry = entry
        self._host = host
        self._log = log

    def show(self, entry: Entry) -> None:
        """In memory alone: a crash of the agent forgets it."""
        self.entry = entry
        if self._host.uploads is not None:
            self._host.uploads.rests(entry)
        self._host.changed(entry)

    async def write(self, entry: Entry) -> None:
        """An intent, or what others may rely on.

        :raises OSError: it is not durable, and nothing has changed"""
        await self._host.journal.write(entry)
        self.show(entry)

    async def note(self, entry: Entry) -> None:
        """As `write`, of what is true already: a full disk does not make it untrue."""
        try:
            await self._host.journal.write(entry)
        except OSError as error:
            self._log.error(
                "the journal is behind", action="journal_failed", state=entry.state, error=str(error)
            )
        self.show(entry)

    async def doom(self, reason: Reason, *, elsewhere: bool = False) -> None:
        """The intent to end it. A full disk must not keep anything alive."""
        await self.note(replace(self.entry, state=State.KILLING, reason=reason, elsewhere=elsewhere))

    def ended(self, state: State) -> Entry:
        """The entry of a sandbox that holds nothing any more."""
        return replace(
            self.entry,
            state=state,
            slot=None,
            place=None,
            vm=None,
            snapshot=None,
            saved_memory=None,
            expires_at=None,
        )

    def paused(self, generation: int | None, *, memory: bool) -> Entry:
        """The entry of one that rests on the snapshot of that generation."""
        return replace(
            self.entry,
            state=State.PAUSED,
            snapshot=generation,
            paused_once=True,
            saved_memory=memory,
            slot=None,
            place=None,
            vm=None,
            expires_at=None,
        )

    def report(self) -> SandboxReport:
        entry, uploads = self.entry, self._host.uploads
        stored = None
        if uploads is not None and entry.state is State.PAUSED and entry.snapshot is not None:
            stored = uploads.machine_of(entry.id, entry.snapshot)
        return SandboxReport(
            id=entry.id,
            generation=entry.generation,
            state=entry.state,
            reason=entry.reason,
            message=entry.message,
            console=entry.console,
            vcpus=entry.vcpus,
            memory_mb=entry.memory_mb,
            disk_mb=entry.disk_mb,
            envd_version=entry.envd_version,
            saved_memory=entry.saved_memory,
            saved_generation=entry.snapshot,
            stored=stored,
            expires_at=entry.expires_at,
            put_off=entry.put_off,
            renewed=entry.renewed,
        )
