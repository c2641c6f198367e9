"""The audit log: every request that changes something passes here on its way out, whichever API it was for and whatever
became of it. `/v1/audit-logs`: the log, read."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, cast

import msgspec
from litestar import Request, Response, get
from litestar.enums import ScopeType
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from wrenn_server.controlplane import schema_events
from wrenn_server.controlplane.api import cursor, http, shape_events
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import audit
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db.audit import PLATFORM, ActorType, AuditRow, Entry, Filter
from wrenn_server.db.hosts import HostRow
from wrenn_server.model.errors import InvalidRequest, WrennError
from wrenn_server.model.ids import new_audit_id
from wrenn_server.wire import problems

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
READING = frozenset({"readFile", "listFiles"})
"""They have a body, and change nothing."""
ROUTINE = frozenset({"heartbeat", "sendSamples"})
"""What agents say all the time: on record only when it was refused."""
LOG_INS = frozenset({"finishOAuth"})
"""They are asked for with GET."""
_NOTED = "audit"
_ANSWER = 64 * 1024
_PLATFORM = "/v1/admin/"
_HOSTS = "/v1/hosts"
"""The platform's affair when its administrators see to them; others see to those of their team's own."""


def audited(app: ASGIApp, cp: ControlPlane) -> ASGIApp:
    """Outside of both APIs, so that no route of theirs can be forgotten. The row is on record before the answer goes."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        start: Message | None = None

        async def send_recorded(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_recorded(cast("dict[str, Any]", scope)):
                start = message
                return
            if start is not None and message["type"] == "http.response.body":
                held, start = start, None
                status: int = cast("dict[str, Any]", held)["status"]
                entry = of_request(cast("dict[str, Any]", scope), status, message["body"])
                if entry is not None:
                    await audit.record(cp, entry)
                await send(held)
            await send(message)

        await app(scope, receive, send_recorded)

    return wrapped


async def record_socket(cp: ControlPlane, scope: Mapping[str, Any], error: WrennError | None = None) -> None:
    """A WebSocket is opened, or refused; nothing when nothing can be changed through it. On record when this returns."""
    status, body = (101, b"") if error is None else (error.status, problems.encode(error, None))
    entry = of_request({**scope, "method": "GET"}, status, body)
    if entry is not None:
        await audit.record(cp, entry)


def of_request(scope: Mapping[str, Any], status: int, body: bytes) -> Entry | None:
    """:returns: None: it changed nothing, and could not"""
    operation = operation_of(scope)
    if operation is None or operation in READING or (operation in ROUTINE and status < 400):
        return None
    state: Mapping[str, Any] = scope["state"]
    noted: Noted = state.get(_NOTED) or Noted()
    answer = _object(body)
    actor_type, actor_id, team_id = noted.actor or _actor(state, answer)
    found = audit.resource(scope.get("path_params") or {}, answer if status < 400 else {})
    type, id = found or noted.about or (None, None)
    caller: Caller | None = state.get("caller")
    by_platform = caller is not None and caller.is_admin and scope["path"].startswith(_HOSTS)
    ours = team_id is None or by_platform or scope["path"].startswith(_PLATFORM)
    return Entry(
        id=new_audit_id(),
        chain=PLATFORM if ours else team_id or PLATFORM,
        actor_type=actor_type,
        actor_id=actor_id,
        peer=_peer(scope),
        method=scope["method"],
        operation=operation,
        resource_type=type,
        resource_id=None if id is None else _text(id),
        status=status,
        code=noted.code if status < 400 else _code(answer),
        request_id=state[http.REQUEST_ID],
    )


def operation_of(scope: Mapping[str, Any]) -> str | None:
    """Its name in the API's description, or of E2B's paths that of the handler. None: nothing is there."""
    handler = scope.get("route_handler")
    if handler is None:
        return None
    if scope["type"] == ScopeType.WEBSOCKET:
        return handler.opt.get("operation")
    return handler.operation_id or f"e2b.{handler.handler_name}"


@dataclass(frozen=True, slots=True)
class Noted:
    """What a handler knows that neither path nor answer tells.

    :ivar about: type and id of what the request is about
    :ivar actor: type, id and team of whom it made known
    :ivar code: why it was refused, with a status that does not say so
    """

    about: tuple[str, str] | None = None
    actor: tuple[ActorType, str, str] | None = None
    code: str | None = None


def note(request: Request[Any, Any, Any], noted: Noted) -> None:
    request.scope["state"][_NOTED] = noted


@get("/v1/audit-logs", operation_id="listAuditLogs", tags=["audit"])
async def listing(
    cp: Cp,
    caller: Who,
    wanted_actor: Annotated[str | None, QueryParameter(name="actor_id", max_length=64)] = None,
    operation: Annotated[
        str | None, QueryParameter(max_length=64, description="`operationId` of this description, or `e2b.…`")
    ] = None,
    resource_type: Annotated[str | None, QueryParameter(max_length=64)] = None,
    resource_id: Annotated[str | None, QueryParameter(max_length=256)] = None,
    refused: Annotated[
        bool | None, QueryParameter(description="True: only what was refused or failed; false: only the rest")
    ] = None,
    since: Annotated[datetime | None, QueryParameter(description="RFC 3339")] = None,
    until: Annotated[datetime | None, QueryParameter(description="RFC 3339; before this time")] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
    after: cursor.Parameter = None,
) -> Response[list[schema_events.AuditLog]]:
    """Requests of and for the team that change something, and log-ins, allowed or refused; newest first."""
    wanted = Filter(
        actor_id=wanted_actor,
        operation=operation,
        resource_type=resource_type,
        resource_id=resource_id,
        refused=refused,
        since=_with_zone(since, "since"),
        until=_with_zone(until, "until"),
    )
    return await _page(cp, caller.team_id, wanted, after, limit)


@get("/v1/audit-logs/export", operation_id="exportAuditLogs", tags=["audit"])
async def export(cp: Cp, caller: Who) -> Stream:
    """All of the team's, oldest first, as lines of JSON that can be verified without us (`docs/audit.md`)."""
    return Stream(_lines(cp, caller.team_id), media_type="application/jsonl")


@get("/v1/admin/audit-logs", operation_id="listPlatformAuditLogs", tags=["audit"])
async def listing_of_platform(
    cp: Cp,
    caller: Who,
    operation: Annotated[str | None, QueryParameter(max_length=64)] = None,
    resource_id: Annotated[str | None, QueryParameter(max_length=256)] = None,
    refused: FromQuery[bool | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
    after: cursor.Parameter = None,
) -> Response[list[schema_events.AuditLog]]:
    """What is no team's: hosts, administration, log-ins that were refused, requests without credentials."""
    wanted = Filter(operation=operation, resource_id=resource_id, refused=refused)
    return await _page(cp, PLATFORM, wanted, after, limit)


@get("/v1/admin/audit-logs/verification", operation_id="verifyAuditLogs", tags=["audit"])
async def verification(cp: Cp, caller: Who) -> schema_events.AuditVerification:
    """Reads every row of every chain, and tells whether it is as it was written."""
    return shape_events.verification(await audit.verify(cp.db))


async def _page(
    cp: ControlPlane, chain: str, wanted: Filter, after: str | None, limit: int
) -> Response[list[schema_events.AuditLog]]:
    before = None if after is None else cursor.read(after)
    rows = await audit.page(cp, chain, wanted, before=before, limit=limit + 1)
    return Response(
        [shape_events.audit_log(row) for row in rows[:limit]],
        headers=cursor.header(rows[limit - 1].number) if len(rows) > limit else {},
    )


async def _lines(cp: ControlPlane, chain: str) -> AsyncGenerator[bytes]:
    async for row in audit.export(cp, chain):
        yield line(row)


def line(row: AuditRow) -> bytes:
    return msgspec.json.encode(shape_events.audit_log(row)) + b"\n"


def _is_recorded(scope: Mapping[str, Any]) -> bool:
    return scope["method"] in CHANGING or operation_of(scope) in LOG_INS


def _actor(
    state: Mapping[str, Any], answer: Mapping[str, object]
) -> tuple[ActorType, str | None, str | None]:
    """Type, id and team."""
    caller: Caller | None = state.get("caller")
    if caller is not None:
        if caller.user_id is not None:
            return "user", caller.user_id, caller.team_id
        return "api_key", caller.key_id, caller.team_id
    host: HostRow | None = state.get("host")
    if host is not None:
        return "host", host.id, None
    user_id, team_id = answer.get("user_id"), answer.get("team_id")
    if isinstance(user_id, str) and isinstance(team_id, str):
        return "user", user_id, team_id  # that is what a log-in answers
    return "anonymous", None, None


def _object(body: bytes) -> dict[str, object]:
    if not body or len(body) > _ANSWER:
        return {}
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}


def _code(answer: Mapping[str, object]) -> str | None:
    """Of a problem, or of E2B's error."""
    error = answer.get("error")
    code = (
        cast("dict[str, object]", error).get("code") if isinstance(error, dict) else answer.get("error_code")
    )
    return code if isinstance(code, str) else None


def _peer(scope: Mapping[str, Any]) -> str:
    """The edge has written it, or a proxy that it trusts, which puts its own client last."""
    given = dict(scope["headers"]).get(b"x-forwarded-for", b"").decode("latin-1")
    return given.rpartition(",")[2].strip()[:64]


def _text(value: str) -> str:
    """What PostgreSQL can store of it."""
    return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()[:256]


def _with_zone(moment: datetime | None, name: str) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise InvalidRequest(f"{name} has no offset from UTC, such as Z")
    return moment


USER_ROUTES = [listing, export]
ADMIN_ROUTES = [listing_of_platform, verification]
