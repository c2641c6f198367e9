"""Who waits for events in this program. What there is to read is in the database (`services/events.py`): a wake-up too many
does no harm."""

import asyncio
import contextlib
from collections.abc import Generator


class Feed:
    def __init__(self) -> None:
        self.new = asyncio.Event()
        """Set when there may be events without a position."""
        self.deliveries = asyncio.Event()
        """Set when there may be something to deliver."""
        self.closing = False
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def heard(self, kind: str, name: str) -> None:
        """What `Routes.on_news` is told."""
        if kind == "event":
            self.new.set()
        elif kind == "deliveries":
            self.deliveries.set()
        elif kind == "events" and name:
            for change in self._waiting.get(name, ()):
                change.set()
        elif kind in {"events", ""}:  # the platform's, which some of all teams read; or something was missed
            self._wake_all()
            if not kind:
                self.new.set()
                self.deliveries.set()

    def close(self) -> None:
        """Streams end, and tell their readers to come back."""
        self.closing = True
        self._wake_all()

    @contextlib.contextmanager
    def waiting(self, team_id: str) -> Generator[asyncio.Event]:
        """An event that is set whenever there may be something to read, or the feed closes."""
        change = asyncio.Event()
        self._waiting.setdefault(team_id, set()).add(change)
        try:
            yield change
        finally:
            self._waiting[team_id].remove(change)
            if not self._waiting[team_id]:
                del self._waiting[team_id]

    def _wake_all(self) -> None:
        for changes in self._waiting.values():
            for change in changes:
                change.set()
