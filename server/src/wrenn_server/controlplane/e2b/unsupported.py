"""Parts of E2B's API that this platform does not have, refused clearly: a program must not think that it worked."""

from litestar import HttpMethod, route

from wrenn_server.controlplane.api.auth import Who
from wrenn_server.model.errors import NotSupported

_GET, _POST, _PATCH, _DELETE = (
    HttpMethod.GET,
    HttpMethod.POST,
    HttpMethod.PATCH,
    HttpMethod.DELETE,
)


@route(
    [
        "/v3/templates",
        "/v2/templates",
        "/templates",
        "/templates/{template_id:str}",
        "/templates/{template_id:str}/builds/{build_id:str}",
        "/v2/templates/{template_id:str}/builds/{build_id:str}",
    ],
    http_method=[_POST],
)
async def start_build(caller: Who) -> None:
    raise _builds()


@route(
    [
        "/templates/{template_id:str}/builds/{build_id:str}/status",
        "/templates/{template_id:str}/builds/{build_id:str}/logs",
        "/templates/{template_id:str}/files/{digest:str}",
    ],
    http_method=[_GET],
)
async def follow_build(caller: Who) -> None:
    raise _builds()


@route(["/templates/{template_id:str}", "/v2/templates/{template_id:str}"], http_method=[_PATCH])
async def publish(caller: Who) -> None:
    raise NotSupported("templates belong to one team: they cannot be made public")


@route(["/volumes", "/volumes/{volume_id:str}"], http_method=[_GET, _POST, _DELETE])
async def volumes(caller: Who) -> None:
    raise NotSupported("there are no volumes on this platform yet")


@route(["/secrets", "/secrets/{secret_id:str}"], http_method=[_GET, _POST, _DELETE])
async def secrets(caller: Who) -> None:
    raise NotSupported("there are no secrets on this platform yet")


def _builds() -> NotSupported:
    return NotSupported(
        "templates cannot be built on this platform yet",
        hint="start from base, set a sandbox up and take a snapshot with a name",
    )


ROUTES = [start_build, follow_build, publish, volumes, secrets]
