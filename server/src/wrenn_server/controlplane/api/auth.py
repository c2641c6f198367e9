"""Who asks: guards run before anything else of a request is looked at.

A route needs the scope `read` when its method only looks, `write` otherwise, or what it says with `opt=auth.needs(…)`.
"""

from typing import Any, TypeVar, cast

from litestar import Request, types
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from msgspec import UNSET, UnsetType

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import hosts, users
from wrenn_server.controlplane.services.sessions import Client
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db import actor
from wrenn_server.db.hosts import HostRow
from wrenn_server.model.errors import Forbidden, Unauthorized, WrennError
from wrenn_server.model.people import Scope

Cp = NamedDependency[ControlPlane]
Who = NamedDependency[Caller]
From = NamedDependency[Client]
Agent = NamedDependency[HostRow]
Connection = ASGIConnection[Any, Any, Any, Any]

SESSION_COOKIE = "wrenn_session"
CSRF_COOKIE = "wrenn_csrf"
_CONTROL_PLANE = "wrenn.control_plane"
"""In the scope of a request."""
_LOOKING = frozenset(("GET", "HEAD", "OPTIONS"))
T = TypeVar("T")


def needs(
    scope: Scope, *, beyond: bool = False, operation: str | None = None, platform: bool = False
) -> dict[str, Any]:
    """For `opt` of a route that needs another scope than its method says.

    :param beyond: it touches more than the sandbox in its path, so a key of that sandbox alone will not do
    :param platform: administrators of the platform may, whatever they are in their team
    :param operation: its name in the audit log, of a WebSocket by which something can be changed
    """
    return {"scope": scope, "beyond": beyond, "operation": operation, "platform": platform}


def scope_of(method: str, opt: dict[str, Any]) -> Scope:
    found: Scope | None = opt.get("scope")
    return found or ("read" if method in _LOOKING else "write")


async def caller_guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """API key, user token or a browser's session, in this order."""
    key = connection.headers.get("x-api-key")
    token = _bearer(connection)
    if key is not None:
        who = await users.by_api_key(control_plane(connection), key)
    elif token is not None:
        who = await by_secret(control_plane(connection), token)
    else:
        who = await _user(
            connection,
            "this needs an API key or a login",
            "send the header `X-API-Key: wrn_…` or `Authorization: Bearer …`",
        )
    admit(connection, handler, who)


async def by_secret(cp: ControlPlane, secret: str) -> Caller:
    """Of a user's token. `Bearer` with an API key is what some HTTP clients make of a key; it says the same.

    :raises Unauthorized:
    """
    return await (users.by_api_key if users.key_digest(secret) else users.by_token)(cp, secret)


def admit(connection: Connection, handler: BaseRouteHandler, who: Caller) -> None:
    """:raises Forbidden: not this route, or not with the sandbox in its path"""
    _enter(connection, who)
    if not (handler.opt.get("platform") and who.is_admin):
        who.demand(scope_of(_method(connection), handler.opt))
    if who.sandbox_id is not None and (
        handler.opt.get("beyond") or connection.path_params.get("sandbox_id") != who.sandbox_id
    ):
        raise Forbidden(
            "this API key reaches one sandbox alone, and this is beyond it", code="scope_required"
        )


async def user_guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """A user's token or session; API keys do not do."""
    who = await _user(
        connection, "this needs a login", "POST /v1/auth/login gives a token for `Authorization: Bearer …`"
    )
    _enter(connection, who)
    who.demand(scope_of(_method(connection), handler.opt))


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


def served_by(cp: ControlPlane, routes: types.ASGIApp) -> types.ASGIApp:
    """What arrives here is that control plane's."""

    async def wrapped(scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        cast("dict[str, object]", scope)[_CONTROL_PLANE] = cp
        await routes(scope, receive, send)

    return wrapped


def control_plane(connection: Connection) -> ControlPlane:
    return cast("dict[str, Any]", connection.scope)[_CONTROL_PLANE]


def caller(connection: Connection) -> Caller:
    return connection.state.caller


def is_by_cookie(connection: Connection) -> bool:
    """A browser sends it by itself, whichever site's page it shows."""
    given = connection.headers.get("x-api-key") is not None or _bearer(connection) is not None
    return not given and bool(connection.cookies.get(SESSION_COOKIE))


def has_credentials(connection: Connection) -> bool:
    headers = connection.headers
    return "x-api-key" in headers or "authorization" in headers or is_by_cookie(connection)


def admitted(connection: Connection) -> Caller | None:
    """None: nobody was let in yet."""
    return connection.state.get("caller")


def provide_cp(request: Request[Any, Any, Any]) -> ControlPlane:
    return control_plane(request)


def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    return request.state.caller


def provide_host(request: Request[Any, Any, Any]) -> HostRow:
    return request.state.host


def provide_client(request: Request[Any, Any, Any]) -> Client:
    # The edge says where a request comes from; of several names the last is that of the proxy nearest to it.
    address = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return Client(address or "unknown", request.headers.get("user-agent", ""))


def given(value: T | UnsetType) -> T | None:
    """Of a field that may be left out."""
    return None if value is UNSET else value


def _enter(connection: Connection, caller: Caller) -> None:
    connection.state.caller = caller
    actor.current.set(caller.actor)


async def _user(connection: Connection, missing: str, hint: str) -> Caller:
    cp = control_plane(connection)
    token = _bearer(connection)
    if token is not None:
        return await users.by_token(cp, token)
    secret = connection.cookies.get(SESSION_COOKIE)
    if secret:
        changes = _method(connection) not in _LOOKING
        csrf = connection.headers.get("x-csrf-token", "") if changes else None
        return await users.by_cookie(cp, secret, csrf)
    raise Unauthorized(missing, hint=hint)


def _method(connection: Connection) -> str:
    """That of the request by which a WebSocket is opened is GET."""
    return cast("dict[str, Any]", connection.scope).get("method", "GET")


def _bearer(connection: Connection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
