"""`/v1/snapshots`: saved sandboxes that others start from."""

from typing import Annotated

from litestar import Response, delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import auth, cursor, shape
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.services import snapshots
from wrenn_server.model.errors import NotFound
from wrenn_server.model.ids import parse_snapshot_id


@post(
    "/v1/sandboxes/{sandbox_id:str}/snapshots",
    operation_id="createSnapshot",
    tags=["snapshots"],
    opt=auth.needs("write", beyond=True),
)
async def create(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.SandboxSnapshot | None] = None
) -> schema.Snapshot:
    """Save a running sandbox, which goes on, for others to start from. Answers when all is saved."""
    wanted = data or schema.SandboxSnapshot()
    row = await snapshots.create(cp, caller.team_id, sandbox_id, name=wanted.name, memory=wanted.memory)
    return shape.snapshot(row)


@get("/v1/snapshots", operation_id="listSnapshots", tags=["snapshots"])
async def listing(
    cp: Cp,
    caller: Who,
    sandbox_id: Annotated[str | None, QueryParameter(description="Only of this source")] = None,
    name: Annotated[
        str | None, QueryParameter(description="Only those that `name` or `name:tag` leads to")
    ] = None,
    limit: cursor.Limit = 100,
    after: cursor.Parameter = None,
) -> Response[list[schema.Snapshot]]:
    """The newest first."""
    rows = await snapshots.page(
        cp,
        caller.team_id,
        sandbox_id=sandbox_id,
        name=name,
        before=None if after is None else cursor.read_at(after),
        limit=limit + 1,
    )
    headers = cursor.header_at(rows[limit - 1].created_at, rows[limit - 1].id) if len(rows) > limit else {}
    return Response([shape.snapshot(row) for row in rows[:limit]], headers=headers)


@delete("/v1/snapshots/{snapshot_id:str}", operation_id="deleteSnapshot", tags=["snapshots"])
async def delete_one(cp: Cp, caller: Who, snapshot_id: FromPath[str]) -> None:
    """Delete a snapshot that no sandbox lives on. Its names are gone with it."""
    if parse_snapshot_id(snapshot_id) is None:
        raise NotFound(f"snapshot {snapshot_id[:64]} does not exist", code="snapshot_not_found")
    await snapshots.delete(cp, caller.team_id, snapshot_id)


ROUTES = [create, listing, delete_one]
