"""The facade as one ASGI application, and what of the public port is its part."""

import functools

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from wrenn_server.controlplane.api import auth, http
from wrenn_server.controlplane.e2b import (
    errors,
    lifecycle,
    metrics,
    network,
    sandboxes,
    snapshots,
    templates,
    unsupported,
)
from wrenn_server.model.errors import WrennError

_FIRST = frozenset({
    b"sandboxes", b"snapshots", b"templates", b"default-templates", b"volumes", b"secrets", b"v2", b"v3",
})  # fmt: skip
"""First segments of its paths. The native API has none of them."""


@functools.cache
def litestar() -> Litestar:
    """The same for every control plane of a process."""
    return Litestar(
        [
            Router(
                "/",
                route_handlers=[
                    *sandboxes.ROUTES,
                    *lifecycle.ROUTES,
                    *snapshots.ROUTES,
                    *templates.ROUTES,
                    *metrics.ROUTES,
                    *unsupported.ROUTES,
                    network.update,
                ],
                guards=[auth.caller_guard],
                dependencies={"caller": Provide(auth.provide_caller, sync_to_thread=False)},
            )
        ],
        dependencies={"cp": Provide(auth.provide_cp, sync_to_thread=False)},
        exception_handlers={
            WrennError: errors.on_wrenn_error,
            HTTPException: errors.on_http_exception,
            Exception: errors.on_anything,
        },
        request_class=http.StrictRequest,
        request_max_body_size=http.MAX_BODY,
        openapi_config=None,
        logging_config=None,
    )


def beside(native: ASGIApp, facade: ASGIApp) -> ASGIApp:
    """Both on one port. The facade sees paths as they were on the wire: names of templates contain `%2F` and `%3A`, and
    a decoded slash would cut them in two."""

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await native(scope, receive, send)
            return
        raw: bytes = scope["raw_path"]
        if raw.removeprefix(b"/").partition(b"/")[0] not in _FIRST:
            await native(scope, receive, send)
            return
        scope["path"] = raw.decode("latin-1")
        await facade(scope, receive, send)

    return choose
