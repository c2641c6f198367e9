"""Logs, of which the platform keeps none."""

from litestar import get
from litestar.params import FromPath

from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.e2b import read, schema
from wrenn_server.controlplane.services import sandboxes


@get(["/sandboxes/{sandbox_id:str}/logs", "/v2/sandboxes/{sandbox_id:str}/logs"])
async def logs(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> schema.Logs:
    await sandboxes.get(cp, caller.team_id, read.sandbox_id(sandbox_id))
    return schema.Logs()


ROUTES = [logs]
