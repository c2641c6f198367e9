"""Snapshots of running sandboxes. They are deleted as templates (`templates.py`)."""

from typing import Annotated

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from wrenn_server.controlplane.api import auth
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.e2b import read, schema, shape
from wrenn_server.controlplane.e2b.find import of_living
from wrenn_server.controlplane.e2b.sandboxes import NEXT_PAGE, Limit, NextToken
from wrenn_server.controlplane.services import snapshots


@post("/sandboxes/{sandbox_id:str}/snapshots", opt=auth.needs("write", beyond=True))
async def create(
    cp: Cp, caller: Who, sandbox_id: FromPath[str], data: JSONBody[schema.NewSnapshot | None] = None
) -> schema.Snapshot:
    given = data or schema.NewSnapshot()
    id = read.sandbox_id(sandbox_id)
    async with of_living(cp, caller, id):
        row = await snapshots.create(
            cp, caller.team_id, id, name=given.name or None, memory=given.memory is not False
        )
    return shape.snapshot(row)


@get("/snapshots")
async def listing(
    cp: Cp,
    caller: Who,
    sandbox_id: Annotated[str | None, QueryParameter(name="sandboxID")] = None,
    name: FromQuery[str | None] = None,
    limit: Limit = 100,
    next_token: NextToken = None,
) -> Response[list[schema.Snapshot]]:
    rows = await snapshots.page(
        cp,
        caller.team_id,
        sandbox_id=None if sandbox_id is None else read.sandbox_id(sandbox_id),
        name=name or None,
        before=read.read_cursor(next_token),
        limit=limit + 1,
    )
    more = len(rows) > limit
    headers = {NEXT_PAGE: read.write_cursor(rows[limit - 1].created_at, rows[limit - 1].id)} if more else {}
    return Response([shape.snapshot(row) for row in rows[:limit]], headers=headers)


ROUTES = [create, listing]
