"""How PostgreSQL carries out the statements of the hot paths: the strings of `db/`, explained instead of executed."""

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from wrenn_server.db import (
    api_keys,
    hosts,
    leases,
    listing,
    placement,
    reports,
    samples,
    sandboxes,
    snapshots,
    templates,
    transitions,
    usage,
)
from wrenn_server.db.pool import Connection, Database
from wrenn_server.db.sandboxes import New, Room
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent

LARGE = frozenset({"sandboxes", "draws", "samples", "usage_days"})
"""Tables of which no hot statement reads all rows. Hosts are few enough to be compared with each other."""
ROOM = Room(cpus=16.0, memory=2.0, disk=20.0)
SPECS = agent.HostSpecs(
    arch="x86_64", cpus=64, memory_mb=262_144, disk_mb=1_000_000, vmm="simulated", vmm_version="1",
    accelerated=True, version="simulated",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    name: str
    """Of the function in `db/`."""
    generic: bool
    """As it is made for a statement that is used often, without looking at the arguments."""
    scans: frozenset[str]
    """Tables of which all rows are read."""
    cost: float

    @property
    def is_right(self) -> bool:
        return not self.scans & LARGE


class Explaining(Connection):
    """Notes the plans of what would be executed, and finds nothing."""

    def __init__(self, tx: Connection) -> None:
        super().__init__(tx._raw)
        self.name = ""
        self.plans: list[Plan] = []

    async def fetch(self, sql: str, *args: object) -> list[Any]:
        await self._note(sql, args)
        return []

    async def fetchrow(self, sql: str, *args: object) -> None:
        await self._note(sql, args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        await self._note(sql, args)
        return []

    async def execute(self, sql: str, *args: object) -> str:
        await self._note(sql, args)
        return "UPDATE 0"

    async def _note(self, sql: str, args: tuple[object, ...]) -> None:
        self._keep(await super().fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *args), generic=False)
        await super().execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await super().execute(f"PREPARE hot AS {sql}")
        values = f"({', '.join(['NULL'] * len(args))})" if args else ""
        self._keep(await super().fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE hot {values}"), generic=True)
        await super().execute("DEALLOCATE hot")
        await super().execute("SET LOCAL plan_cache_mode = auto")

    def _keep(self, explained: str, *, generic: bool) -> None:
        top = msgspec.json.decode(explained)[0]["Plan"]
        scans = frozenset(node["Relation Name"] for node in _nodes(top) if _reads_all(node))
        self.plans.append(Plan(name=self.name, generic=generic, scans=scans, cost=top["Total Cost"]))


async def some(db: Database) -> tuple[str, list[str]]:
    """A host, and sandboxes that run on it."""
    found = await db.fetch(
        """SELECT host_id, id FROM sandboxes WHERE state = 'running'
              AND host_id = (SELECT min(host_id) FROM sandboxes WHERE state = 'running') ORDER BY id LIMIT 100"""
    )
    return found[0]["host_id"], [record["id"] for record in found]


async def explain(db: Database, team_id: str, host_id: str, ids: list[str]) -> list[Plan]:
    """
    :param team_id: that has many sandboxes; :param host_id: a host; :param ids: some sandboxes on it
    """
    async with db.transaction() as tx:
        explaining = Explaining(tx)
        for name, statement in _hot(explaining, team_id, host_id, ids).items():
            explaining.name = name
            await statement()
    return explaining.plans


def _hot(
    tx: Connection, team_id: str, host_id: str, ids: list[str]
) -> dict[str, Callable[[], Awaitable[object]]]:
    now = datetime.now(UTC)
    one = ids[0]
    new = New(
        id="sb" + "z" * 20, team_id=team_id, template_id="tpl_" + "0" * 20, template="minimal", vcpus=1,
        memory_mb=512, disk_mb=5120, image="minimal", snapshot_id=None, timeout_sec=300, on_timeout="kill",
        pause_memory=True, auto_resume=False, activity=(), metadata={}, network=agent.Network(),
        traffic_token=None, mask_host=None, access_token="",
    )  # fmt: skip
    measured = [
        agent.Sample(
            sandbox_id=id, at=now.timestamp(), cpu_count=1, cpu_used_pct=1.0, mem_used=1, mem_total=2, mem_cache=0,
            disk_used=1, disk_total=2, seconds=5.0,
        )
        for id in ids
    ]  # fmt: skip
    told = [
        agent.SandboxReport(id=id, generation=1, state=State.RUNNING, vcpus=1, memory_mb=512, disk_mb=5120)
        for id in ids
    ]
    room: dict[str, Any] = {"vcpus": 1, "memory_mb": 512, "disk_mb": 5120, "room": ROOM}

    def page(**asked: Any) -> Callable[[], Awaitable[object]]:
        options: dict[str, Any] = {"states": None, "metadata": {}, "limit": 101, **asked}
        return lambda: listing.page(tx, team_id, **options)

    return {
        # A create, a pause, a resume, a request to a sandbox
        "api_keys.by_digest": lambda: api_keys.by_digest(tx, b"x"),
        "templates.find": lambda: templates.find(tx, team_id, ["minimal"], "latest"),
        "placement.choices": lambda: placement.choices(
            tx, image="minimal", host_id=None, team_id=team_id, limit=8, **room
        ),
        "sandboxes.insert": lambda: sandboxes.insert(tx, new, host_id, ROOM),
        "sandboxes.get": lambda: sandboxes.get(tx, one),
        "sandboxes.locate": lambda: sandboxes.locate(tx, one),
        "transitions.begin": lambda: transitions.begin(tx, one, 1, [State.RUNNING], State.PAUSING),
        "transitions.settle": lambda: transitions.settle(tx, one, 1, [State.STARTING], State.RUNNING),
        "transitions.begin_resume": lambda: transitions.begin_resume(tx, one, 1, None, ROOM),
        "sandboxes.touch": lambda: sandboxes.touch(tx, dict.fromkeys(ids, now)),
        # Lists
        "listing.page": page(),
        "listing.page after": page(after=(now, one)),
        "listing.page of states": page(states=[State.RUNNING, State.PAUSED]),
        "listing.page of metadata": page(metadata={"user": "u7"}),
        "listing.page of a template": page(template_id="tpl_" + "0" * 20),
        "listing.count": lambda: listing.count(tx, team_id, [State.RUNNING]),
        # Heartbeats and usage
        "hosts.get": lambda: hosts.get(tx, host_id),
        "hosts.heartbeat": lambda: hosts.heartbeat(
            tx, host_id, started_at=1.0, sequence=1, address=None, specs=SPECS, templates=[], installation=""
        ),
        "reports.differing": lambda: reports.differing(tx, host_id, None, told),
        "sandboxes.of": lambda: sandboxes.of(tx, ids),
        "sandboxes.note_expiry": lambda: sandboxes.note_expiry(tx, host_id, [(id, 1, now) for id in ids]),
        "sandboxes.note_stored": lambda: sandboxes.note_stored(
            tx, host_id, "s", [(id, 1, "m") for id in ids]
        ),
        "usage.days": lambda: usage.days(tx, team_id, now.date(), now.date()),
        "usage.untaken": lambda: usage.untaken(tx, host_id, 1.0, [1, 2]),
        "usage.count": lambda: usage.count(tx, host_id, measured),
        "usage.take": lambda: usage.take(tx, host_id, 1.0, 1, 2),
        "samples.insert": lambda: samples.insert(tx, host_id, measured),
        "samples.newest": lambda: samples.newest(tx, team_id, ids),
        # What reconcilers look for every few seconds
        "leases.claim": lambda: leases.claim(tx, 64),
        "leases.extend": lambda: leases.extend(tx, ids),
        "leases.look_into": lambda: leases.look_into(tx, ids),
        "snapshots.claim": lambda: snapshots.claim(tx, 64),
        "hosts.expire": lambda: hosts.expire(tx, 90.0),
        "hosts.draining": lambda: hosts.draining(tx),
        "transitions.lose": lambda: transitions.lose(tx),
        "transitions.interrupted": lambda: transitions.interrupted(tx, 60.0),
        "sandboxes.alive_on": lambda: sandboxes.alive_on(tx, host_id),
        "sandboxes.of_deleted_teams": lambda: sandboxes.of_deleted_teams(tx),
    }


def _reads_all(node: dict[str, Any]) -> bool:
    """Also through an index, for its order alone."""
    kind = node["Node Type"]
    return kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node)


def _nodes(plan: dict[str, Any]) -> Generator[dict[str, Any]]:
    yield plan
    for inner in cast("list[dict[str, Any]]", plan.get("Plans", [])):
        yield from _nodes(inner)
