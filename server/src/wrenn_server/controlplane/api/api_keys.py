"""`/v1/api-keys`, and keys of one sandbox."""

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from wrenn_server.controlplane import schema_people as schema
from wrenn_server.controlplane.api import auth, shape_people
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import api_keys, sandboxes
from wrenn_server.db import api_keys as db_api_keys

_OF_SANDBOX = "/v1/sandboxes/{sandbox_id:str}/api-keys"


@post("/v1/api-keys", operation_id="createApiKey", tags=["API keys"])
async def create(cp: Cp, caller: Who, data: JSONBody[schema.ApiKeyCreate | None] = None) -> schema.ApiKey:
    """Make an API key of the team. The key itself is shown only now. Nobody makes one that may more than they may
    themselves; API keys make further ones only with the scope `admin`."""
    wanted = data or schema.ApiKeyCreate()
    made = await api_keys.create(
        cp, caller, name=wanted.name, scopes=wanted.scopes, expires_in_sec=auth.given(wanted.expires_in_sec)
    )
    return shape_people.api_key(made.row, made.key)


@get("/v1/api-keys", operation_id="listApiKeys", tags=["API keys"])
async def listing(cp: Cp, caller: Who) -> list[schema.ApiKey]:
    """The team's API keys, newest first."""
    return [shape_people.api_key(row) for row in await db_api_keys.of_team(cp.db, caller.team_id)]


@delete("/v1/api-keys/{key_id:str}", operation_id="deleteApiKey", tags=["API keys"])
async def delete_one(cp: Cp, caller: Who, key_id: FromPath[str]) -> None:
    """Revoke an API key, at once. Members revoke their own, owners and administrators any."""
    await api_keys.delete(cp, caller, key_id)


@post(_OF_SANDBOX, operation_id="createSandboxKey", tags=["API keys"], opt=auth.needs("write", beyond=True))
async def create_for_sandbox(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.SandboxKeyCreate | None] = None
) -> schema.ApiKey:
    """Make a key that reaches this sandbox alone, to hand to an end user or a browser. It ends with the sandbox."""
    wanted = data or schema.SandboxKeyCreate()
    made = await api_keys.create_for_sandbox(
        cp,
        caller,
        sandbox_id,
        name=wanted.name,
        scopes=wanted.scopes,
        expires_in_sec=auth.given(wanted.expires_in_sec),
    )
    return shape_people.api_key(made.row, made.key)


@get(_OF_SANDBOX, operation_id="listSandboxKeys", tags=["API keys"])
async def list_of_sandbox(cp: Cp, caller: Who, sandbox_id: FromPath[str]) -> list[schema.ApiKey]:
    """The keys that reach this sandbox alone, newest first."""
    row = await sandboxes.get(cp, caller.team_id, sandbox_id)
    found = await db_api_keys.of_sandbox(cp.db, row.id, caller.team_id)
    return [shape_people.api_key(key, UNSET) for key in found]


@delete(
    _OF_SANDBOX + "/{key_id:str}",
    operation_id="deleteSandboxKey",
    tags=["API keys"],
    opt=auth.needs("write", beyond=True),
)
async def delete_of_sandbox(cp: Cp, caller: Who, sandbox_id: FromPath[str], key_id: FromPath[str]) -> None:
    """Revoke a key of this sandbox, at once."""
    await api_keys.delete_of_sandbox(cp, caller, sandbox_id, key_id)


ROUTES = [create, listing, delete_one, create_for_sandbox, list_of_sandbox, delete_of_sandbox]
