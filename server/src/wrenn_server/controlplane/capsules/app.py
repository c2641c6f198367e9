"""The facade as one ASGI application, and what of the public port is its part."""

import functools
from urllib.parse import parse_qs

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from wrenn_server.controlplane.api import auth, exec, http, streams, terminals
from wrenn_server.controlplane.capsules import capsules, errors, files, measures, snapshots
from wrenn_server.model.errors import WrennError
from wrenn_server.model.ids import parse_snapshot_id

CAPSULES, SNAPSHOTS = "/v1/capsules", "/v1/snapshots"


@functools.cache
def litestar() -> Litestar:
    """The same for every control plane of a process."""
    return Litestar(
        [
            Router(
                "/",
                route_handlers=[
                    Router(
                        CAPSULES,
                        route_handlers=[*capsules.ROUTES, *measures.ROUTES, *exec.ROUTES, *files.ROUTES],
                    ),
                    Router(SNAPSHOTS, route_handlers=snapshots.ROUTES),
                ],
                guards=[auth.caller_guard],
            ),
            Router(CAPSULES, route_handlers=[*streams.ROUTES, *terminals.ROUTES]),
        ],
        dependencies={
            "cp": Provide(auth.provide_cp, sync_to_thread=False),
            "caller": Provide(auth.provide_caller, sync_to_thread=False),
        },
        exception_handlers={
            WrennError: errors.on_wrenn_error,
            HTTPException: http.on_http_exception,
            Exception: http.on_anything,
        },
        request_class=http.StrictRequest,
        request_max_body_size=http.MAX_BODY,
        openapi_config=None,
        logging_config=None,
    )


def beside(native: ASGIApp, facade: ASGIApp) -> ASGIApp:
    """Both on one port."""

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            ours = is_ours(scope["method"], scope["path"], scope["query_string"])
        else:
            ours = is_ours("GET", scope["path"], b"")
        await (facade if ours else native)(scope, receive, send)

    return choose


def is_ours(method: str, path: str, query: bytes) -> bool:
    """All of `/v1/capsules`. Of `/v1/snapshots` what names them otherwise than the native API does: a snapshot's source
    in the body, a `type`, a name where that has the id."""
    if path == CAPSULES or path.startswith(f"{CAPSULES}/"):
        return True
    if path == SNAPSHOTS:
        return method == "POST" or (
            method == "GET" and "type" in parse_qs(query.decode("latin-1"), keep_blank_values=True)
        )
    name = path.removeprefix(f"{SNAPSHOTS}/")
    return method == "DELETE" and name not in ("", path) and parse_snapshot_id(name) is None
