"""What capsules use."""

from datetime import UTC, datetime, timedelta

from litestar import get
from litestar.params import FromPath, FromQuery

from wrenn_server.controlplane.api import usage
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.api.samples import RANGES, Range
from wrenn_server.controlplane.capsules import schema, shape
from wrenn_server.controlplane.services import samples


@get("/{sandbox_id:str}/metrics")
async def metrics(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], range: FromQuery[Range] = "10m"
) -> schema.Metrics:
    start = datetime.now(UTC) - timedelta(seconds=RANGES[range])
    found = await samples.between(cp, caller.team_id, sandbox_id, start=start)
    return shape.metrics(sandbox_id, range, found)


ROUTES = [metrics, *usage.ROUTES]
