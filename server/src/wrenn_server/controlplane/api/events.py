"""`/v1/events`: what happens to a team's sandboxes and snapshots, as a list and as a stream of Server-Sent Events."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from wrenn_server.controlplane import schema_events
from wrenn_server.controlplane.api import auth, cursor, shape_events
from wrenn_server.controlplane.api.auth import Cp, Who
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import events
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db.events import EventRow
from wrenn_server.model.errors import InvalidRequest

RECONNECT_MS = 1000
CONNECTED = b'event: connected\ndata: {"event":"connected","message":"connected"}\n\n'
KEEP_ALIVE = b": keepalive\n\n"
RECONNECT = b"retry: %d\n\n" % RECONNECT_MS


@get("/v1/events", operation_id="listEvents", tags=["events"])
async def listing(
    cp: Cp,
    caller: Who,
    type: Annotated[
        schema_events.EventType | None, QueryParameter(description="Only of this type, e.g. `sandbox.pause`")
    ] = None,
    resource_id: Annotated[
        str | None, QueryParameter(max_length=64, description="Only of this sandbox, snapshot or host")
    ] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
    after: cursor.Parameter = None,
) -> Response[list[schema_events.Event]]:
    """What happened, newest first; kept for 30 days. Administrators of the platform see those of hosts, too."""
    rows = await events.page(
        cp,
        caller.team_id,
        platform=caller.is_admin,
        type=type,
        resource_id=resource_id,
        before=None if after is None else cursor.read(after),
        limit=limit + 1,
    )
    return Response(
        [shape_events.event(row) for row in rows[:limit]],
        headers=cursor.header(rows[limit - 1].position) if len(rows) > limit else {},
    )


@get("/v1/events/stream", operation_id="streamEvents", tags=["events"])
async def stream(
    cp: Cp,
    caller: Who,
    request: Request[Any, Any, Any],
    last_event_id: Annotated[
        str | None,
        HeaderParameter(
            name="Last-Event-ID", description="`id` of the last frame that was seen: go on behind it"
        ),
    ] = None,
) -> Stream:
    """Server-Sent Events: one frame `connected`, then one for each event, with a comment after 30 s without any. `data` is
    an Event. Nothing is lost and nothing comes twice for who comes back with `Last-Event-ID`."""
    position = None if last_event_id is None else _position(last_event_id)

    async def may_read() -> bool:
        return await auth.may_still(request)

    return Stream(
        _frames(cp, caller, position, may_read),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def frame(row: EventRow) -> bytes:
    """JSON has no line ends of its own."""
    event = shape_events.event(row)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (
        row.position,
        event.event.encode(),
        msgspec.json.encode(event),
    )


async def _frames(
    cp: ControlPlane, caller: Caller, position: int | None, may_read: Any
) -> AsyncGenerator[bytes]:
    said = CONNECTED
    async for found in events.follow(cp, caller.team_id, position, may_read, platform=caller.is_admin):
        yield frame(found) if isinstance(found, EventRow) else said
        said = KEEP_ALIVE
    yield RECONNECT


def _position(text: str) -> int:
    """:raises InvalidRequest:"""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidRequest("Last-Event-ID is not the id of a frame of this stream")
    return int(text)


ROUTES = [listing, stream]
