"""What sandboxes used; and their logs, of which the platform keeps none."""

from typing import Annotated

from litestar import get
from litestar.params import FromPath, FromQuery, QueryParameter

from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.e2b import read, schema, shape
from wrenn_server.controlplane.services import samples, sandboxes
from wrenn_server.model.errors import InvalidRequest

_MOST_SANDBOXES = 100


@get("/sandboxes/{sandbox_id:str}/metrics")
async def of_one(
    cp: Cp,
    caller: Who,
    sandbox_id: FromPath[str],
    start: FromQuery[int | None] = None,
    end: FromQuery[int | None] = None,
) -> list[schema.Metric]:
    """Without a start: since it was made; a range before that is empty."""
    rows = await samples.between(
        cp,
        caller.team_id,
        read.sandbox_id(sandbox_id),
        start=read.unix_time(start or 0, "start"),
        end=read.unix_time(end, "end"),
    )
    return [shape.metric(row) for row in rows]


@get("/sandboxes/metrics")
async def latest(
    cp: Cp, caller: Who, sandbox_ids: Annotated[list[str], QueryParameter(name="sandbox_ids")]
) -> schema.LatestMetrics:
    ids = [read.sandbox_id(id) for id in ",".join(sandbox_ids).split(",") if id]
    if not 1 <= len(ids) <= _MOST_SANDBOXES:
        raise InvalidRequest(f"sandbox_ids: expected 1 to {_MOST_SANDBOXES} ids")
    found = await samples.newest(cp, caller.team_id, ids)
    return schema.LatestMetrics(sandboxes={row.sandbox_id: shape.metric(row) for row in found})


@get(["/sandboxes/{sandbox_id:str}/logs", "/v2/sandboxes/{sandbox_id:str}/logs"])
async def logs(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.Logs:
    await sandboxes.get(cp, caller.team_id, read.sandbox_id(sandbox_id))
    return schema.Logs()


ROUTES = [of_one, latest, logs]
