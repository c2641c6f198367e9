"""What is left of a sandbox whose VM is gone: nothing, or a journal that tells why."""

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from wrenn_server.hostagent.sandbox.host import Host
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.lifecycle import Command
from wrenn_server.hostagent.sandbox.messages import Call, failure
from wrenn_server.hostagent.sandbox.record import Record
from wrenn_server.linux.crash import crash_point
from wrenn_server.model.sandbox import Reason, State


class Ends:
    """One per sandbox, for its owner alone."""

    def __init__(self, host: Host, record: Record, log: FilteringBoundLogger) -> None:
        self._host = host
        self._record = record
        self._log = log

    async def killed(self, by: Call | None) -> bool:
        """Whether nothing is left of it. Whoever killed it knows; the end of its time must be told until acknowledged.

        :param by: answered; None: its time was over"""
        record = self._record
        if record.entry.state is not State.KILLING:
            await record.doom(Reason.USER, elsewhere=by is not None and by.elsewhere)
        crash_point("kill.vm_ended")
        await self._doom(record.entry)
        try:
            await self._host.files.remove(record.entry.id, keep_journal=by is None)
        except OSError as error:
            self._log.error("files stay behind", action="remove_failed", error=str(error))
            if by is not None:
                by.refuse(failure(Command.KILL, error))
            return False  # still killing: the next kill, or the next agent, tries again
        final = record.ended(State.KILLED)
        if by is None:
            await record.note(final)
            crash_point("expire.recorded")
            return False
        crash_point("kill.forgotten")
        record.show(final)
        by.done(record.report())
        return True

    async def failed(self, reason: Reason, message: str, console: str) -> None:
        self._log.warning("sandbox failed", action="failed", reason=reason, detail=message)
        failed = self._record.ended(State.FAILED)
        await self._record.note(replace(failed, reason=reason, message=message, console=console or None))
        await self._doom(failed)
        await self._host.files.remove(failed.id, keep_journal=True)

    async def _doom(self, entry: Entry) -> None:
        uploads = self._host.uploads
        if uploads is not None and entry.paused_once and not entry.elsewhere:
            await uploads.doom(entry.id)
