"""The API as one ASGI application."""

import functools
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp
from prometheus_client import CONTENT_TYPE_LATEST

from wrenn_server.controlplane import schema
from wrenn_server.controlplane.api import (
    accounts,
    api_keys,
    audit,
    auth,
    channels,
    docs,
    etag,
    events,
    exec,
    files,
    hosts,
    http,
    idempotency,
    invoices,
    oauth,
    openapi,
    pools,
    samples,
    sandboxes,
    sessions,
    snapshots,
    streams,
    teams,
    templates,
    terminals,
    usage,
    webhooks,
)
from wrenn_server.controlplane.api.auth import Cp
from wrenn_server.controlplane.capsules import app as capsules
from wrenn_server.controlplane.config import VERSION
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.e2b import app as e2b
from wrenn_server.model.errors import WrennError

_CALLER = {"caller": Provide(auth.provide_caller, sync_to_thread=False)}
READY_SEC = 2.0
"""Who asks gives up soon, as a rule, and asks again."""
_USER: list[dict[str, list[str]]] = [{"user": []}, {"session": []}]
_HOST = {"host": Provide(auth.provide_host, sync_to_thread=False)}


@get("/health", operation_id="health", tags=["platform"])
async def health() -> schema.Health:
    """The control plane serves."""
    return schema.Health("ok", VERSION)


@get("/ready", operation_id="ready", tags=["platform"])
async def ready(cp: Cp) -> schema.Health:
    """Its database answers, so it can do its work; otherwise 503 `database_unavailable`: other control planes may."""
    await cp.db.answers(READY_SEC)
    return schema.Health("ok", VERSION)


@get("/openapi.json", include_in_schema=False)
async def description(request: Request[Any, Any, Any]) -> Response[bytes]:
    return etag.document(request, described(), "application/json")


@functools.cache
def described() -> bytes:
    return msgspec.json.encode(openapi.describe(litestar(described=True)))


@get("/metrics", include_in_schema=False)
async def metrics(cp: Cp) -> Response[bytes]:
    return Response(await cp.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def build(cp: ControlPlane) -> ASGIApp:
    # Outside of Litestar, whose own middleware does not see paths and methods that it does not know.
    native = e2b.beside(litestar(), e2b.litestar())
    return http.outermost(audit.audited(auth.served_by(cp, capsules.beside(native, capsules.litestar())), cp))


@functools.cache
def litestar(*, described: bool = False) -> Litestar:
    """The same for every control plane of a process, as it takes a quarter of a second to make.

    :param described: only to describe the API
    """
    return Litestar(
        [
            health,
            ready,
            description,
            *docs.ROUTES,
            metrics,
            *sessions.OPEN_ROUTES,
            *accounts.OPEN_ROUTES,
            *oauth.OPEN_ROUTES,
            hosts.register,
            Router("/v1/sandboxes", route_handlers=[*streams.ROUTES, *terminals.ROUTES]),
            Router(
                "/",
                route_handlers=[
                    *sandboxes.ROUTES,
                    *snapshots.ROUTES,
                    *events.ROUTES,
                    *channels.ROUTES,
                    *webhooks.ROUTES,
                    samples.metrics,
                    Router("/v1/sandboxes", route_handlers=[*exec.ROUTES, *files.ROUTES, *usage.ROUTES]),
                    *api_keys.ROUTES,
                    *teams.CALLER_ROUTES,
                    templates.listing,
                    *pools.ROUTES,
                    *invoices.ROUTES,
                    *hosts.ROUTES,
                ],
                guards=[auth.caller_guard],
                dependencies=_CALLER,
                security=[{"apiKey": []}, *_USER],
            ),
            Router(
                "/",
                route_handlers=[
                    *sessions.USER_ROUTES,
                    *accounts.USER_ROUTES,
                    *oauth.USER_ROUTES,
                    *teams.USER_ROUTES,
                    *audit.USER_ROUTES,
                ],
                guards=[auth.user_guard],
                dependencies=_CALLER,
                security=_USER,
            ),
            Router(
                "/",
                route_handlers=[
                    *accounts.ADMIN_ROUTES,
                    *audit.ADMIN_ROUTES,
                    *pools.ADMIN_ROUTES,
                    *invoices.ADMIN_ROUTES,
                ],
                guards=[auth.admin_guard],
                dependencies=_CALLER,
                security=_USER,
            ),
            Router(
                "/",
                route_handlers=[hosts.heartbeat, hosts.renew, samples.take],
                guards=[auth.host_guard],
                dependencies=_HOST,
                security=[{"host": []}],
            ),
        ],
        dependencies={
            "cp": Provide(auth.provide_cp, sync_to_thread=False),
            "client": Provide(auth.provide_client, sync_to_thread=False),
        },
        exception_handlers={
            WrennError: http.on_wrenn_error,
            HTTPException: http.on_http_exception,
            Exception: http.on_anything,
        },
        middleware=[idempotency.answered_once],
        request_class=http.StrictRequest,
        request_max_body_size=http.MAX_BODY,
        openapi_config=openapi.CONFIG if described else None,  # serving it is `description`'s affair
        logging_config=None,
    )
