"""What every service works with."""

import asyncio
from dataclasses import dataclass, field

from wrenn_server.controlplane.config import Config
from wrenn_server.controlplane.hosts_client import Host, HostsClient
from wrenn_server.controlplane.keys import Keys
from wrenn_server.controlplane.metrics import Metrics
from wrenn_server.controlplane.seen import Seen
from wrenn_server.controlplane.services.feed import Feed
from wrenn_server.controlplane.services.routes import Routes
from wrenn_server.controlplane.work import Work
from wrenn_server.db.pool import Database


@dataclass(frozen=True, slots=True)
class ControlPlane:
    config: Config
    db: Database
    keys: Keys
    hosts: HostsClient
    routes: Routes
    work: Work
    feed: Feed = field(default_factory=Feed)
    seen: Seen = field(default_factory=Seen)
    metrics: Metrics = field(default_factory=Metrics)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the reconcilers should look at once instead of at their next time."""

    waking: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, "asyncio.Task[None]"])
    """Resumes that traffic waits for, by sandbox."""
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Every password check takes 19 MiB and a core for some 20 ms: so many at a time."""

    def host(self, host_id: str, address: str | None) -> Host:
        return Host(host_id, self.routes.agent_address(address))
