"""`/v1/auth`, `/v1/api-keys`, `/v1/templates`."""

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import shape
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import users
from wrenn_server.db import api_keys as db_api_keys
from wrenn_server.db import templates as db_templates


@post("/v1/auth/login", operation_id="login", tags=["users"], status_code=200)
async def login(cp: Cp, data: JSONBody[schema.Login]) -> schema.LoggedIn:
    """A token for `Authorization: Bearer`, valid for 12 hours."""
    found = await users.login(cp, data.email, data.password)
    return schema.LoggedIn(
        token=found.token, user_id=found.user_id, team_id=found.team_id, email=found.email, name=found.name
    )


@post("/v1/api-keys", operation_id="createApiKey", tags=["users"])
async def create_key(cp: Cp, caller: Who, data: JSONBody[schema.ApiKeyCreate | None] = None) -> schema.ApiKey:
    """Make an API key of the team. The key itself is shown only now."""
    name = data.name if data else ""
    made = await users.new_key(cp.db, team_id=caller.team_id, name=name, created_by=caller.user_id)
    return shape.api_key(made.row, made.key)


@get("/v1/api-keys", operation_id="listApiKeys", tags=["users"])
async def list_keys(cp: Cp, caller: Who) -> list[schema.ApiKey]:
    """The team's API keys, newest first."""
    return [shape.api_key(row) for row in await db_api_keys.of_team(cp.db, caller.team_id)]


@delete("/v1/api-keys/{key_id:str}", operation_id="deleteApiKey", tags=["users"])
async def delete_key(cp: Cp, caller: Who, key_id: FromPath[str]) -> None:
    """Revoke an API key, at once."""
    await users.delete_key(cp, caller, key_id)


@get("/v1/templates", operation_id="listTemplates", tags=["templates"])
async def list_templates(cp: Cp, caller: Who) -> list[schema.Template]:
    """What sandboxes can be started from."""
    return [shape.template(row) for row in await db_templates.visible(cp.db, caller.team_id)]


USER_ROUTES = [create_key, list_keys, delete_key]
