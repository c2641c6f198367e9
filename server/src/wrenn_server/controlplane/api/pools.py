"""`/v1/pool`: what the team has bought; `/v1/plans`; the same for administrators of the platform."""

import re

from litestar import Response, delete, get, post, put
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from wrenn_server.controlplane import schema_pools as schema
from wrenn_server.controlplane.api import auth, cursor
from wrenn_server.controlplane.api import shape_pools as shape
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import pools
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db.pools import PlanRow
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.model.pool import Capacity

_PLAN_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)


@get("/v1/pool", operation_id="getPool", tags=["pools"])
async def get_pool(cp: Cp, caller: Who) -> schema.Pool:
    """What the team has bought, what its sandboxes draw of it, and what is free."""
    return shape.pool(await pools.get(cp, caller.team_id))


@put("/v1/pool", operation_id="setPool", tags=["pools"], opt=auth.needs("admin"))
async def set_pool(cp: Cp, caller: Who, data: JSONBody[schema.PoolSet]) -> schema.Pool:
    """Open, grow or shrink the team's pool, at once: never below what is drawn (`pool_below_draw`), nor above the spend
    limit. For owners and administrators of the team."""
    return await _set(cp, caller.team_id, data, caller)


@get("/v1/pool/history", operation_id="listPoolChanges", tags=["pools"])
async def history(
    cp: Cp, caller: Who, limit: cursor.Limit = 100, after: cursor.Parameter = None
) -> Response[list[schema.PoolChange]]:
    """All changes of the team's pool, newest first. `X-Next-Cursor` is there when there are more."""
    before = None if after is None else cursor.read(after)
    rows = await pools.history(cp, caller.team_id, before=before, limit=limit + 1)
    headers = cursor.header(rows[limit - 1].id) if len(rows) > limit else {}
    return Response([shape.change(row) for row in rows[:limit]], headers=headers)


@get("/v1/pool/caps", operation_id="listPoolCaps", tags=["pools"])
async def list_caps(cp: Cp, caller: Who) -> list[schema.PoolCap]:
    """Bounds inside the team's pool, oldest first."""
    return [shape.cap(row) for row in await pools.caps(cp, caller.team_id)]


@post("/v1/pool/caps", operation_id="setPoolCap", tags=["pools"], status_code=200, opt=auth.needs("admin"))
async def set_cap(cp: Cp, caller: Who, data: JSONBody[schema.PoolCapSet]) -> schema.PoolCap:
    """Bound what the sandboxes of one key, or with one label, draw of the pool; once more: another bound. For owners and
    administrators of the team."""
    row = await pools.set_cap(
        cp,
        caller.team_id,
        key_id=data.key_id,
        label=(data.label.name, data.label.value) if data.label else None,
        bound=(data.vcpus, data.memory_mb, data.disk_mb),
    )
    return shape.cap(row)


@delete("/v1/pool/caps/{cap_id:str}", operation_id="deletePoolCap", tags=["pools"], opt=auth.needs("admin"))
async def delete_cap(cp: Cp, caller: Who, cap_id: FromPath[str]) -> None:
    """Take a bound away. For owners and administrators of the team."""
    await pools.delete_cap(cp, caller.team_id, cap_id)


@get("/v1/plans", operation_id="listPlans", tags=["pools"])
async def list_plans(cp: Cp, caller: Who) -> list[schema.Plan]:
    """Sizes of pools that have a name."""
    return [shape.plan(row) for row in await pools.plans(cp)]


# For administrators of the platform


@put("/v1/admin/plans/{name:str}", operation_id="setPlan", tags=["admin"])
async def set_plan(cp: Cp, caller: Who, name: FromPath[str], data: JSONBody[schema.PlanSet]) -> schema.Plan:
    """Make or change a plan. Pools keep the size that they have."""
    if not _PLAN_NAME.fullmatch(name):
        raise InvalidRequest("the name of a plan is 1 to 64 letters, digits, - and _")
    row = PlanRow(
        name=name,
        vcpus=data.vcpus,
        memory_mb=data.memory_mb,
        disk_mb=data.disk_mb,
        spend_limit=data.spend_limit,
        is_default=data.default,
    )
    await pools.set_plan(cp, row)
    return shape.plan(row)


@delete("/v1/admin/plans/{name:str}", operation_id="deletePlan", tags=["admin"])
async def delete_plan(cp: Cp, caller: Who, name: FromPath[str]) -> None:
    """Remove a plan. Pools keep the size that they have."""
    await pools.delete_plan(cp, name)


@get("/v1/admin/teams/{team_id:str}/pool", operation_id="getTeamPool", tags=["admin"])
async def get_team_pool(cp: Cp, caller: Who, team_id: FromPath[str]) -> schema.Pool:
    """A team's pool, as the team sees it."""
    return shape.pool(await pools.get(cp, team_id))


@put("/v1/admin/teams/{team_id:str}/pool", operation_id="setTeamPool", tags=["admin"])
async def set_team_pool(
    cp: Cp, caller: Who, team_id: FromPath[str], data: JSONBody[schema.PoolSet]
) -> schema.Pool:
    """Open, grow or shrink a team's pool."""
    return await _set(cp, team_id, data, caller)


@delete("/v1/admin/teams/{team_id:str}/pool", operation_id="closeTeamPool", tags=["admin"])
async def close_team_pool(cp: Cp, caller: Who, team_id: FromPath[str]) -> None:
    """Close a team's pool: from now on the hosts alone bound what it may have."""
    await pools.close(cp, team_id, _actor(caller))


async def _set(cp: ControlPlane, team_id: str, data: schema.PoolSet, caller: Caller) -> schema.Pool:
    sizes = (data.vcpus, data.memory_mb, data.disk_mb)
    limit = None if data.spend_limit is UNSET else data.spend_limit
    keep = data.spend_limit is UNSET
    if data.plan is not None:
        if sizes != (None, None, None):
            raise InvalidRequest("give either a plan, or vcpus, memory_mb and disk_mb")
        plan = await pools.size_of_plan(cp, data.plan)
        size = Capacity(plan.vcpus, plan.memory_mb, plan.disk_mb)
        if keep:
            limit, keep = plan.spend_limit, False
    elif data.vcpus is None or data.memory_mb is None or data.disk_mb is None:
        raise InvalidRequest("give all of vcpus, memory_mb and disk_mb, or a plan")
    else:
        size = Capacity(data.vcpus, data.memory_mb, data.disk_mb)
    wanted = pools.Wanted(size=size, spend_limit=limit, keep_limit=keep, version=data.version)
    return shape.pool(await pools.set_size(cp, team_id, wanted, _actor(caller)))


def _actor(caller: Caller) -> str | None:
    return caller.user_id or caller.key_id


ROUTES = [get_pool, set_pool, history, list_caps, set_cap, delete_cap, list_plans]
ADMIN_ROUTES = [set_plan, delete_plan, get_team_pool, set_team_pool, close_team_pool]
