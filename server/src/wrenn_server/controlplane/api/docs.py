"""`/docs`: the description of the API for people, rendered in the browser by Swagger UI from files of ours alone."""

from importlib.util import find_spec
from pathlib import Path

from litestar import MediaType, Response, get
from litestar.params import FromPath
from litestar.response import File

from wrenn_server.model.errors import NotFound

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Wrenn Sandbox API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="reference"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  validatorUrl: null, // else it asks a server of its makers
});
"""
_KINDS = {
    "favicon-32x32.png": "image/png",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
_HEADERS = {
    # The renderer writes `style` attributes; scripts come from files only.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CACHED = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}


_RENDERER = "flask_swagger_ui"
"""The package that brings Swagger UI's build. It is found, not imported: that would load Flask."""


def _assets() -> Path:
    """:raises ModuleNotFoundError:"""
    spec = find_spec(_RENDERER)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{_RENDERER} is not installed: install what wrenn-server depends on")
    return Path(spec.origin).parent / "dist"


ASSETS = _assets()


@get("/docs", include_in_schema=False)
async def page() -> Response[str]:
    return Response(PAGE, media_type=MediaType.HTML, headers=_HEADERS)


@get("/docs/start.js", include_in_schema=False)
async def start() -> Response[str]:
    return Response(_START, media_type="text/javascript", headers=_CACHED)


@get("/docs/{name:str}", include_in_schema=False)
async def asset(name: FromPath[str]) -> File:
    """:raises NotFound:"""
    if name not in _KINDS:
        raise NotFound("the API reference has no such file")
    return File(ASSETS / name, media_type=_KINDS[name], content_disposition_type="inline", headers=_CACHED)


ROUTES = (page, start, asset)
