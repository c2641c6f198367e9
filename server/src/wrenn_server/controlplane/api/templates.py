"""`/v1/templates`."""

from litestar import get

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import shape
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.db import templates as db_templates


@get("/v1/templates", operation_id="listTemplates", tags=["templates"])
async def listing(cp: Cp, caller: Who) -> list[schema.Template]:
    """What sandboxes can be started from."""
    return [shape.template(row) for row in await db_templates.visible(cp.db, caller.team_id)]
