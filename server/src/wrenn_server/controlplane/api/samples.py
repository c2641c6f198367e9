"""What sandboxes use: from agents, and for those who ask."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import shape
from wrenn_server.controlplane.api.auth import Agent, Cp, Who
from wrenn_server.controlplane.services import samples
from wrenn_server.model.errors import InvalidRequest
from wrenn_server.wire import agent

BATCH_BODY = 4 * 1024 * 1024
"""Bytes of 10,000 samples, and some."""
_LAST_MOMENT = 253402300799
"""Of the year 9999, in Unix seconds."""
Range = Literal["5m", "10m", "1h", "2h", "6h", "12h", "24h"]
RANGES: dict[Range, int] = {
    "5m": 300,
    "10m": 600,
    "1h": 3600,
    "2h": 7200,
    "6h": 21600,
    "12h": 43200,
    "24h": 86400,
}

UnixSeconds = Annotated[int | None, QueryParameter(ge=0, le=_LAST_MOMENT, description="Unix seconds")]


@post(
    "/v1/hosts/{host_id:str}/samples",
    operation_id="sendSamples",
    tags=["agents"],
    status_code=204,
    request_max_body_size=BATCH_BODY,
)
async def take(cp: Cp, host: Agent, host_id: FromPath[str], data: JSONBody[agent.Samples]) -> None:
    """An agent tells what its sandboxes used. The same sample may come twice, and counts once."""
    await samples.take(cp, host, data)


@get("/v1/sandboxes/{sandbox_id:str}/metrics", operation_id="getSandboxMetrics", tags=["sandboxes"])
async def metrics(
    cp: Cp,
    caller: Who,
    sandbox_id: FromPath[str],
    range: Annotated[
        Range | None,
        QueryParameter(description="Until now; in place of `start` and `end`. Without all three: 10m"),
    ] = None,
    start: UnixSeconds = None,
    end: UnixSeconds = None,
) -> schema.Metrics:
    """What a sandbox used, sampled every few seconds and kept for a week, also when it has ended. At most 1,000 points,
    evenly spread over the range."""
    if range is not None and (start, end) != (None, None):
        raise InvalidRequest("give either range, or start and end")
    first, last = _moment(start), _moment(end)
    if (start, end) == (None, None):
        first = datetime.now(UTC) - timedelta(seconds=RANGES[range or "10m"])
    found = await samples.between(cp, caller.team_id, sandbox_id, start=first, end=last)
    return schema.Metrics(sandbox_id=sandbox_id, points=[shape.metrics_point(row) for row in found])


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
