"""`/v1/snapshots`, as far as the published SDK uses it in another way than the native API has it."""

from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from wrenn_server.controlplane.api import auth
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.capsules import capsules, schema, shape
from wrenn_server.controlplane.services import sandboxes, snapshots, templates
from wrenn_server.model.errors import Conflict
from wrenn_server.model.template import DEFAULT_TAG

_ALL = 10_000
_RESERVED = frozenset({capsules.BASE, *capsules.TEMPLATES})


@post("/", operation_id="createSnapshot", status_code=202, opt=auth.needs("write", beyond=True))
async def create(
    cp: Cp, caller: Who, data: JSONBody[schema.NewSnapshot], overwrite: FromQuery[bool] = False
) -> schema.SnapshotTaken:
    """All is saved when this answers. A name stays with its snapshot, unless `overwrite`."""
    if data.name is not None and data.name.removesuffix(f":{DEFAULT_TAG}").lower() in _RESERVED:
        raise Conflict(f"the name {data.name} is that of a template of the platform", code="name_reserved")
    row = await snapshots.create(cp, caller.team_id, data.sandbox_id, name=data.name, replace=overwrite)
    return shape.snapshot_taken(await sandboxes.get(cp, caller.team_id, row.sandbox_id), row)


@get("/", opt=auth.needs("read", beyond=True))
async def listing(
    cp: Cp, caller: Who, type: Annotated[schema.TemplateType, QueryParameter()]
) -> list[schema.Template]:
    """All of one type; without a type the native API answers."""
    if type == "base":
        return [shape.base(row) for row in await templates.summaries(cp, None)]
    rows = await snapshots.page(cp, caller.team_id, limit=_ALL)
    return [shape.snapshot(row) for row in rows]


@delete("/{name:str}", operation_id="deleteSnapshot", opt=auth.needs("write", beyond=True))
async def delete_one(cp: Cp, caller: Who, name: FromPath[str]) -> None:
    """By `name:tag`; by a name alone all that it has tags for."""
    await snapshots.delete(cp, caller.team_id, name)


ROUTES = [create, listing, delete_one]
