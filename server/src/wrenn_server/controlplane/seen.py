"""When keys, sessions and sandboxes were last used. Noted in memory, written down together now and then: a write for every
request would cost more than the request."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from wrenn_server.db import api_keys, sandboxes, sessions
from wrenn_server.db.pool import Database

INTERVAL = 15.0


@dataclass(slots=True)
class Seen:
    keys: dict[str, datetime] = field(default_factory=dict[str, datetime])
    sandboxes: dict[str, datetime] = field(default_factory=dict[str, datetime])
    sessions: dict[str, datetime] = field(default_factory=dict[str, datetime])

    def key(self, key_id: str) -> None:
        self.keys[key_id] = datetime.now(UTC)

    def session(self, session_id: str) -> None:
        self.sessions[session_id] = datetime.now(UTC)

    def sandbox(self, sandbox_id: str) -> None:
        self.sandboxes[sandbox_id] = datetime.now(UTC)

    async def write(self, db: Database) -> None:
        keys, self.keys = self.keys, {}
        if keys:
            await api_keys.touch(db, keys)
        logins, self.sessions = self.sessions, {}
        if logins:
            await sessions.touch(db, logins)
        active, self.sandboxes = self.sandboxes, {}
        if active:
            await sandboxes.touch(db, active)
