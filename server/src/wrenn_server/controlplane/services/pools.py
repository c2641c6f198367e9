"""Pools: the capacity that a team has bought. They grow and shrink at any time, never below what is drawn.

What a start for which there is no room can do is in `admission.py`.
"""

from dataclasses import dataclass

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import ledger
from wrenn_server.db import api_keys as db_api_keys
from wrenn_server.db import pools as db_pools
from wrenn_server.db.pool import Connection
from wrenn_server.db.pools import CapRow, ChangeRow, PlanRow, PoolRow
from wrenn_server.model.errors import Conflict, InvalidRequest, NotFound
from wrenn_server.model.ids import new_cap_id
from wrenn_server.model.pool import Capacity

CAPS_MAX = 1000


@dataclass(frozen=True, slots=True)
class View:
    """
    :ivar pool: None: the team has none, and may have what the hosts have
    :ivar waiting: requests in its queue
    """

    pool: PoolRow | None
    drawn: Capacity
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    :ivar spend_limit: millionths of the currency in a month; None: no limit
    :ivar keep_limit: `spend_limit` stays what it was
    :ivar version: that the caller has seen; None: any
    """

    size: Capacity
    spend_limit: int | None = None
    keep_limit: bool = False
    version: int | None = None


async def get(cp: ControlPlane, team_id: str) -> View:
    pool = await db_pools.get(cp.db, team_id)
    if pool is None:
        return View(None, await db_pools.drawn(cp.db, team_id), 0)
    return View(pool, pool.drawn, await db_pools.waiting(cp.db, team_id))


async def set_size(cp: ControlPlane, team_id: str, wanted: Wanted, changed_by: str | None) -> View:
    """Opens the team's pool, or changes it.

    :raises Conflict: `pool_below_draw`; `pool_changed`, it has another version; `spend_limit_reached`
    :raises NotFound: no such team
    """
    async with cp.db.transaction() as tx:
        before = await db_pools.lock(tx, team_id)
        _demand_version(before, wanted.version)
        if before is None:
            if not await db_pools.hold_draws(tx, team_id):
                raise NotFound(f"team {team_id[:64]} does not exist")
            if await db_pools.lock(tx, team_id) is not None:
                raise Conflict("the pool was opened by somebody else", code="pool_changed", retryable=True)
            drawn = await db_pools.drawn(tx, team_id)
            _demand_covers(wanted.size, drawn)
            await ledger.demand_within(tx, team_id, None, wanted.size, wanted.spend_limit)
            await db_pools.open(tx, team_id, wanted.size, wanted.spend_limit, drawn)
        else:
            _demand_covers(wanted.size, before.drawn)
            limit = before.spend_limit if wanted.keep_limit else wanted.spend_limit
            await ledger.charge(tx, before)
            await ledger.demand_within(tx, team_id, before.bought, wanted.size, limit)
            await db_pools.resize(tx, team_id, wanted.size, limit)
        pool = await _written(tx, team_id)
        await db_pools.note(tx, "resize" if before else "open", pool, changed_by)
    return View(pool, pool.drawn, await db_pools.waiting(cp.db, team_id))


async def close(cp: ControlPlane, team_id: str, changed_by: str | None) -> None:
    """From now on the team may have what the hosts have. :raises NotFound: it has no pool"""
    async with cp.db.transaction() as tx:
        if not await close_in(tx, team_id, changed_by):
            raise NotFound(f"team {team_id[:64]} has no pool")


async def close_in(tx: Connection, team_id: str, changed_by: str | None) -> bool:
    """As a part of a transaction, such as that which deletes the team. False: it has no pool."""
    pool = await db_pools.lock(tx, team_id)
    if pool is None:
        return False
    await ledger.charge(tx, pool)
    await db_pools.close(tx, team_id)
    await db_pools.note(tx, "close", pool, changed_by)
    return True


async def history(cp: ControlPlane, team_id: str, *, before: int | None, limit: int) -> list[ChangeRow]:
    """Newest first, also of pools that were closed. :param before: id of the last one of the page before"""
    return await db_pools.changes(cp.db, team_id, before=before, limit=limit)


async def size_of_plan(cp: ControlPlane, name: str) -> PlanRow:
    """:raises NotFound: `plan_not_found`"""
    plan = await db_pools.plan(cp.db, name)
    if plan is None:
        raise NotFound(f"there is no plan {name}", code="plan_not_found", hint="GET /v1/plans lists them")
    return plan


# Caps


async def caps(cp: ControlPlane, team_id: str) -> list[CapRow]:
    return await db_pools.caps(cp.db, team_id)


async def set_cap(
    cp: ControlPlane,
    team_id: str,
    *,
    key_id: str | None,
    label: tuple[str, str] | None,
    bound: tuple[int | None, int | None, int | None],
) -> CapRow:
    """Bounds what the sandboxes of one key, or with one label, draw of the team's pool.

    :param bound: vCPUs, memory and disk in MiB; None: none
    :raises InvalidRequest: not exactly one of key and label, or no bound at all
    :raises NotFound: the team has no pool, or no such key
    :raises Conflict: `pool_below_draw`, they draw more already
    """
    if (key_id is None) == (label is None):
        raise InvalidRequest("a cap is for either key_id or label")
    if bound == (None, None, None):
        raise InvalidRequest("a cap bounds at least one of vcpus, memory_mb and disk_mb")
    if key_id is not None and not any(key.id == key_id for key in await db_api_keys.of_team(cp.db, team_id)):
        raise NotFound(f"API key {key_id[:64]} does not exist")
    kind, name, value = ("key", key_id, "") if key_id is not None else ("label", *(label or ("", "")))
    async with cp.db.transaction() as tx:
        if await db_pools.lock(tx, team_id) is None:
            raise NotFound("the team has no pool to bound parts of", hint="PUT /v1/pool opens one")
        known = await db_pools.caps(tx, team_id)
        if len(known) >= CAPS_MAX and (kind, name, value) not in {(c.kind, c.name, c.value) for c in known}:
            raise Conflict(f"a pool has at most {CAPS_MAX} caps", code="too_many_caps")
        drawn = await db_pools.cap_drawn(tx, team_id, kind, name, value)
        large = 2**31 - 1
        _demand_covers(Capacity(*(large if limit is None else limit for limit in bound)), drawn)
        row = await db_pools.set_cap(
            tx, team_id, id=new_cap_id(), kind=kind, name=name, value=value, bound=bound, now=drawn
        )
    if row is None:
        raise LookupError("INSERT returned nothing")
    return row


async def delete_cap(cp: ControlPlane, team_id: str, cap_id: str) -> None:
    """:raises NotFound:"""
    if not await db_pools.delete_cap(cp.db, team_id, cap_id):
        raise NotFound(f"cap {cap_id[:64]} does not exist")


# Plans


async def plans(cp: ControlPlane) -> list[PlanRow]:
    return await db_pools.plans(cp.db)


async def set_plan(cp: ControlPlane, plan: PlanRow) -> None:
    """Teams keep the size that they have. At most one plan is the default."""
    async with cp.db.transaction() as tx:
        await db_pools.set_plan(tx, plan)


async def delete_plan(cp: ControlPlane, name: str) -> None:
    """:raises NotFound:"""
    if not await db_pools.delete_plan(cp.db, name):
        raise NotFound(f"there is no plan {name[:64]}", code="plan_not_found")


def _demand_version(pool: PoolRow | None, version: int | None) -> None:
    now = pool.version if pool else 0
    if version is not None and version != now:
        raise Conflict(f"the pool has version {now} by now, not {version}", code="pool_changed")


def _demand_covers(size: Capacity, drawn: Capacity) -> None:
    lacks = Capacity(
        max(drawn.vcpus - size.vcpus, 0),
        max(drawn.memory_mb - size.memory_mb, 0),
        max(drawn.disk_mb - size.disk_mb, 0),
    )
    if lacks != Capacity():
        raise Conflict(
            f"sandboxes draw {drawn} now, {lacks} more than that",
            code="pool_below_draw",
            hint="kill or pause sandboxes first, or ask for more",
        )


async def _written(tx: Connection, team_id: str) -> PoolRow:
    pool = await db_pools.get(tx, team_id)
    if pool is None:
        raise LookupError("the pool that was written is not there")
    return pool
