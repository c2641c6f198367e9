"""Who asks: guards run before anything else of a request is looked at."""

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import hosts, users
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db import actor
from wrenn_server.db.hosts import HostRow
from wrenn_server.model.errors import Forbidden, Unauthorized, WrennError

Cp = NamedDependency[ControlPlane]
Who = NamedDependency[Caller]
Agent = NamedDependency[HostRow]
Connection = ASGIConnection[Any, Any, Any, Any]


async def caller_guard(connection: Connection, _: BaseRouteHandler) -> None:
    """API key or user token; a key wins over a token."""
    cp = control_plane(connection)
    key = connection.headers.get("x-api-key")
    if key is not None:
        _enter(connection, await users.by_api_key(cp, key))
        return
    token = _bearer(connection)
    if token is None:
        raise Unauthorized(
            "this needs an API key or a login",
            hint="send the header `X-API-Key: wrn_…` or `Authorization: Bearer …`",
        )
    # `Bearer` with an API key is what some HTTP clients make of a key; it says the same.
    by = users.by_api_key if users.key_digest(token) else users.by_token
    _enter(connection, await by(cp, token))


async def user_guard(connection: Connection, _: BaseRouteHandler) -> None:
    """A user's token; API keys do not do."""
    token = _bearer(connection)
    if token is None:
        raise Unauthorized(
            "this needs a login", hint="POST /v1/auth/login gives a token for `Authorization: Bearer …`"
        )
    _enter(connection, await users.by_token(control_plane(connection), token))


async def admin_guard(connection: Connection, handler: BaseRouteHandler) -> None:
    await user_guard(connection, handler)
    if not caller(connection).is_admin:
        raise Forbidden("only administrators of the platform may do this")


async def host_guard(connection: Connection, _: BaseRouteHandler) -> None:
    """A host agent's own token, for its own path only."""
    token = connection.headers.get("x-host-token")
    if token is None:
        raise Unauthorized("this needs a host's token", hint="send the header `X-Host-Token`")
    host = await hosts.authenticate(control_plane(connection), token)
    if connection.path_params.get("host_id") != host.id:
        raise Forbidden("this token is another host's")
    connection.state.host = host


async def may_still(connection: Connection) -> bool:
    """What let this request in lets it in now: for answers that last."""
    try:
        await caller_guard(connection, connection.scope["route_handler"])
    except WrennError:
        return False
    return True


def control_plane(connection: Connection) -> ControlPlane:
    return connection.app.state.cp


def caller(connection: Connection) -> Caller:
    return connection.state.caller


def provide_cp(request: Request[Any, Any, Any]) -> ControlPlane:
    return request.app.state.cp


def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    return request.state.caller


def provide_host(request: Request[Any, Any, Any]) -> HostRow:
    return request.state.host


def _enter(connection: Connection, caller: Caller) -> None:
    connection.state.caller = caller
    actor.current.set(caller.actor)


def _bearer(connection: Connection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
