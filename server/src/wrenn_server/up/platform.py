"""What the supervisor does to a fresh or known installation: its database, its administrator, its one host."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import httpx2
import msgspec

from wrenn_server.controlplane import hosts_client
from wrenn_server.controlplane import keys as control_plane_keys
from wrenn_server.controlplane.hosts_client import Host, HostsClient
from wrenn_server.controlplane.keys import Keys, UserClaims
from wrenn_server.controlplane.services import accounts, api_keys, users
from wrenn_server.db import api_keys as db_api_keys
from wrenn_server.db import embedded, hosts, migrate, pool, teams
from wrenn_server.db import users as db_users
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.pool import Database
from wrenn_server.model.address import Address
from wrenn_server.model.sandbox import Shape
from wrenn_server.up import environment
from wrenn_server.up.settings import ADMIN_EMAIL, Settings
from wrenn_server.wire import agent

KEY_NAME = "wrenn up"
HEARD_WITHIN = 30.0
"""Seconds within which a host that has just started must have sent a heartbeat."""


class HostSilent(TimeoutError):
    """The agent runs, but the control plane does not hear it."""


class Registration(msgspec.Struct):
    registration_token: str


@dataclass(frozen=True, slots=True)
class Administrator:
    user_id: str
    team_id: str
    password: str


@dataclass(frozen=True, slots=True)
class Platform:
    settings: Settings
    database_url: str
    db: Database
    keys: Keys
    hosts: HostsClient
    administrator: Administrator

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncGenerator["Platform", None]:
        """PostgreSQL runs, the schema is the newest, there is an administrator.

        :raises DatabaseUnavailable:"""
        async with contextlib.AsyncExitStack() as stack:
            url = settings.database_url or await stack.enter_async_context(
                embedded.server(settings.data_dir / "postgres")
            )
            await migrate.up(url)
            db = await stack.enter_async_context(pool.connect(url, max_size=3))
            keys = await control_plane_keys.load(db)
            client = await stack.enter_async_context(hosts_client.connect(keys))
            administrator = await ensure_administrator(db, environment.read(settings.env_file))
            yield cls(settings, url, db, keys, client, administrator)

    async def variables(self) -> dict[str, str]:
        """What `wrenn.env` says. The key that stands there is kept while it is good: only its hash is in the database."""
        key = environment.read(self.settings.env_file).get("WRENN_API_KEY", "")
        digest = users.key_digest(key)
        if digest is None or await db_api_keys.by_digest(self.db, digest) is None:
            fresh = await api_keys.make(
                self.db,
                team_id=self.administrator.team_id,
                name=KEY_NAME,
                created_by=self.administrator.user_id,
            )
            key = fresh.key
        return environment.compose(
            base_url=self.settings.base_url,
            proxy_domain=self.settings.proxy_domain,
            api_key=key,
            admin_email=ADMIN_EMAIL,
            admin_password=self.administrator.password,
        )

    async def registration_token(self) -> str | None:
        """For this machine's agent, made through the API as an administrator makes it. None: it has its credentials."""
        known = await self.known_host()
        if known is not None and (self.settings.data_dir / "host-token").exists():
            return None
        path = "/v1/hosts" if known is None else f"/v1/hosts/{known.id}/token"
        token = self.keys.user_token(UserClaims(self.administrator.user_id, self.administrator.team_id))
        async with httpx2.AsyncClient(base_url=self.settings.base_url, trust_env=False) as client:
            response = await client.post(
                path,
                json={"type": "regular"} if known is None else None,
                headers={"Authorization": f"Bearer {token}"},
            )
            response.raise_for_status()
        return msgspec.json.decode(response.content, type=Registration).registration_token

    async def known_host(self) -> HostRow | None:
        """This machine's record: the one with the agent's address, or one whose agent never came."""
        rows = await hosts.listing(self.db)
        mine = [row for row in rows if row.address == self.settings.agent_listen]
        return next(iter(mine or [row for row in rows if row.status == "pending"]), None)

    async def host(self) -> HostRow:
        """The registered host, once the control plane has heard it.

        :raises HostSilent:"""
        deadline = time.monotonic() + HEARD_WITHIN
        while True:
            row = await self.known_host()
            if row is not None and row.status == "online" and row.templates:
                return row
            if time.monotonic() > deadline:
                raise HostSilent(f"no heartbeat of the host agent within {HEARD_WITHIN:g} s")
            await asyncio.sleep(0.05)  # the heartbeat reaches another process; nothing wakes this one

    async def prepare_templates(self) -> HostRow:
        """Boots `minimal` in its default shape, unless its memory snapshot is there."""
        row = await self.host()
        shape = agent.Prepare(
            vcpus=Shape.VCPUS_DEFAULT, memory_mb=Shape.MEMORY_DEFAULT, disk_mb=Shape.DISK_DEFAULT
        )
        await self.hosts.prepare(self.agent_of(row), "minimal", shape)
        return row

    async def drain(self, mode: str) -> None:
        """Pauses (`pause`) or ends (`kill`) every running sandbox of this machine."""
        row = await self.known_host()
        if row is not None:
            await self.hosts.drain(self.agent_of(row), mode)

    def agent_of(self, row: HostRow) -> Host:
        return Host(row.id, Address.parse(row.address or self.settings.agent_listen))


async def ensure_administrator(db: Database, known: dict[str, str]) -> Administrator:
    """The administrator with the password of `wrenn.env`, or a new one when there is none."""
    password = known.get("WRENN_ADMIN_PASSWORD") or secrets.token_urlsafe(18)
    user = await db_users.by_email(db, ADMIN_EMAIL)
    if user is None:
        async with db.transaction() as tx:
            user_id, team_id = await accounts.create(
                tx, email=ADMIN_EMAIL, password=password, name="Administrator", is_admin=True
            )
        return Administrator(user_id, team_id, password)
    if "WRENN_ADMIN_PASSWORD" not in known:
        await accounts.set_password(db, user.id, password)
    team = await teams.first_of(db, user.id)
    if team is None:
        raise LookupError(f"{ADMIN_EMAIL} is in no team")
    return Administrator(user.id, team.id, password)
