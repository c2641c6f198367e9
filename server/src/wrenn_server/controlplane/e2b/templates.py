"""Templates: looked up, listed, tagged, deleted. They are made of snapshots; builds are in `unsupported.py`."""

from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.e2b import read, schema, shape
from wrenn_server.controlplane.e2b.sandboxes import NEXT_PAGE, Limit, NextToken
from wrenn_server.controlplane.services import snapshots, templates
from wrenn_server.model.errors import Conflict, InvalidRequest
from wrenn_server.model.template import new_tag


@get("/templates/aliases/{alias:str}")
async def look_up(cp: Cp, caller: Who, alias: FromPath[str]) -> schema.TemplateAlias:
    """403: another team's, 404: nobody's."""
    row = await templates.look_up(cp, caller.team_id, read.segment(alias))
    return schema.TemplateAlias(template_id=row.id, public=row.team_id is None)


@get("/templates")
async def listing(cp: Cp, caller: Who) -> list[schema.Template]:
    """The team's own."""
    return [shape.template(row) for row in await templates.summaries(cp, caller.team_id)]


@get("/v2/templates")
async def listing_v2(
    cp: Cp, caller: Who, limit: Limit = 100, next_token: NextToken = None
) -> Response[list[schema.Template]]:
    after = read.read_cursor(next_token, ascending=True)
    rows = await templates.summaries(cp, caller.team_id)
    found = [row for row in rows if after is None or (row.created_at, row.id) > after]
    headers: dict[str, str] = {}
    if len(found) > limit:
        last = found[limit - 1]
        headers[NEXT_PAGE] = read.write_cursor(last.created_at, last.id, ascending=True)
    return Response([shape.template(row) for row in found[:limit]], headers=headers)


@get("/default-templates")
async def defaults(cp: Cp, caller: Who) -> list[schema.Template]:
    """The platform's."""
    return [shape.template(row) for row in await templates.summaries(cp, None)]


@get("/templates/{template_id:str}")
async def get_one(cp: Cp, caller: Who, template_id: FromPath[str]) -> schema.TemplateWithBuilds:
    row, made_of = await templates.get(cp, caller.team_id, read.segment(template_id))
    return shape.template_with_builds(row, made_of)


@delete("/templates/{template_id:str}")
async def delete_one(cp: Cp, caller: Who, template_id: FromPath[str]) -> None:
    """A snapshot, or a template with all its snapshots."""
    try:
        await snapshots.delete(cp, caller.team_id, read.segment(template_id))
    except Conflict as error:
        raise InvalidRequest(error.message, code=error.code, hint=error.hint) from error


@post("/templates/tags")
async def assign_tags(cp: Cp, caller: Who, data: JSONBody[schema.AssignTags]) -> schema.AssignedTags:
    tagged = await templates.assign_tags(cp, caller.team_id, data.target, data.tags)
    return schema.AssignedTags(tags=tagged.tags, build_id=shape.build_id(tagged.snapshot_id))


@delete("/templates/tags")
async def remove_tags(cp: Cp, caller: Who, data: JSONBody[schema.RemoveTags]) -> None:
    await templates.remove_tags(cp, caller.team_id, data.name, data.tags)


@get("/templates/{template_id:str}/tags")
async def tags(cp: Cp, caller: Who, template_id: FromPath[str]) -> list[schema.Tag]:
    rows = await templates.tags(cp, caller.team_id, read.segment(template_id))
    return [shape.tag(row) for row in rows]


@get("/templates/{template_id:str}/tags/count")
async def count_tags(cp: Cp, caller: Who, template_id: FromPath[str]) -> schema.TagCount:
    return schema.TagCount(total=len(await templates.tags(cp, caller.team_id, read.segment(template_id))))


@get("/templates/{template_id:str}/tags/exists")
async def tag_exists(
    cp: Cp, caller: Who, template_id: FromPath[str], tag: FromQuery[str]
) -> schema.TagExists:
    normalized = new_tag(tag)
    rows = await templates.tags(cp, caller.team_id, read.segment(template_id))
    return schema.TagExists(exists=normalized in {row.tag for row in rows}, normalized_tag=normalized)


ROUTES = [
    look_up,
    listing,
    listing_v2,
    defaults,
    get_one,
    delete_one,
    assign_tags,
    remove_tags,
    tags,
    count_tags,
    tag_exists,
]
