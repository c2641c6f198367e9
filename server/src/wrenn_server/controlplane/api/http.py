"""What all requests have in common: an id, strict bodies, and problems instead of tracebacks."""

import asyncio
import contextlib
import re
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send, WebSocketReceiveMessage

from wrenn_server.model import errors
from wrenn_server.model.errors import InvalidRequest, TooLarge, WrennError
from wrenn_server.model.ids import new_request_id
from wrenn_server.wire import problems

T = TypeVar("T")

MAX_BODY = 1024 * 1024
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""In JSON a backslash only occurs in strings, so this finds exactly the escaped NUL characters."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)
REQUEST_ID = "request_id"
"""Its name in `scope["state"]`."""
_DRAINED = 32 * 1024 * 1024
_DRAIN_SEC = 10.0
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}

log = structlog.get_logger()


class StrictRequest(Request[Any, Any, Any]):
    """Decodes JSON once and strictly into the handler's own type: "1" is no number, and unknown fields are errors."""

    async def json(self) -> Any:
        """:raises InvalidRequest:"""
        body = await self.body()
        # The plain search first: the pattern takes a millisecond for the heartbeat of a host with many sandboxes.
        if rb"\u0000" in body and _NUL.search(body):
            raise InvalidRequest("the body contains a NUL character, which no text here may")
        kind = self.route_handler.parsed_fn_signature.parameters["data"].annotation
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"the body is not as expected: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"the body is not JSON: {error}") from error


def outermost(app: ASGIApp) -> ASGIApp:
    """Gives every request an id, in `X-Request-Id`, in problems and in log lines; and reads the rest of a body before
    it refuses the request, because a client that is still sending would see a reset instead of the answer."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})  # pyright: ignore[reportUnknownMemberType] - a TypedDict of Litestar's
        scope["state"][REQUEST_ID] = request_id
        header = (b"x-request-id", request_id.encode())
        more = True

        async def receive_counted() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            nonlocal more
            message = await receive()
            more = message["type"] == "http.request" and bool(message.get("more_body"))
            return message

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
                if message["status"] >= 400:
                    await drain()
            await send(message)

        async def drain() -> None:
            left = _DRAINED
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SEC):
                    while more and left > 0:
                        message = await receive_counted()
                        left -= len(message.get("body") or b"")

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await app(scope, receive_counted, send_marked)

    return wrapped


def request_id_of(scope: Scope) -> str:
    """The edge before us gives every request one, and lets no client choose it."""
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


async def while_there(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, for as long as the client is there to hear of it. The body has been read."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise InvalidRequest("the client has left")  # nobody reads this answer
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


def note(error: WrennError) -> None:
    """Into the log, what is not the caller's doing."""
    if error.status >= 500:
        log.warning(
            "request failed",
            action="request_failed",
            code=error.code,
            error=error.message,
            cause=repr(error.__cause__) if error.__cause__ else None,
        )


def on_wrenn_error(request: Request[Any, Any, Any], error: WrennError) -> Response[bytes]:
    note(error)
    content = problems.encode(error, request.scope["state"].get(REQUEST_ID))
    headers = {"Retry-After": "1"} if error.retryable else {}
    return Response(content, status_code=error.status, media_type="application/json", headers=headers)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    translated = translate(error)
    response = on_wrenn_error(request, translated)
    response.status_code = status(error, translated)
    if response.status_code == 405 and error.headers:
        response.headers.update(error.headers)
    return response


def on_anything(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("mistake of ours", action="internal_error", path=request.url.path, exc_info=error)
    return on_wrenn_error(request, errors.Internal("something went wrong on our side"))


def translate(error: HTTPException) -> WrennError:
    """The framework's refusals as ours."""
    if isinstance(error, ValidationException):
        return InvalidRequest(_validation_message(error))
    if error.status_code == 413:
        return TooLarge("the body is longer than it may be here")
    if error.status_code == 500:
        # Litestar's name for a client that left in the middle of its body: nobody reads this answer.
        return InvalidRequest("the request broke off")
    code = _HTTP_CODES.get(
        error.status_code, "invalid_request" if error.status_code < 500 else "internal_error"
    )
    return errors.BY_STATUS.get(error.status_code, InvalidRequest)(str(error.detail), code=code)


def status(error: HTTPException, translated: WrennError) -> int:
    """Of the answer: some that the framework gives have no class of ours."""
    return error.status_code if error.status_code in _HTTP_CODES else translated.status


def _validation_message(error: ValidationException) -> str:
    items = cast("list[dict[str, Any]]", error.extra) if isinstance(error.extra, list) else []
    if any(item.get("key") == "data" for item in items):
        return "a body is needed"
    found = [f"{item.get('key', '?')}: {item.get('message', '')}" for item in items]
    return "; ".join(found)[:1000] or str(error.detail)
