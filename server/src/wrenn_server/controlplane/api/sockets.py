"""WebSockets: who may open one, how long it may last, and how its client hears of its end.

```
 credentials in the request ─► wrong: refused as HTTP ─► else accepted ─┐
 none ─► accepted ─► the first message has them, or an error ───────────┴─► `talk` ─► closed
```

What goes wrong from then on is told in a message, because clients cannot see why they were closed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect
from msgspec.json import Decoder

from wrenn_server.controlplane.api import audit, auth, http
from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.schema_sockets import Auth, Message
from wrenn_server.controlplane.services import users
from wrenn_server.controlplane.services.events import ACCESS_SEC
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.model.errors import (
    Forbidden,
    Internal,
    InvalidRequest,
    Unauthorized,
    Unavailable,
    WrennError,
)
from wrenn_server.wire import problems

Socket = WebSocket[Any, Any, Any]
T = TypeVar("T")

AUTH_SEC = 5.0
"""For the message with the credentials."""
FIRST_SEC = 30.0
"""For the one that says what is wanted."""
_AUTH = Decoder(Auth)
_NORMAL, _REFUSED, _FAILED = 1000, 1008, 1011
"""RFC 6455, section 7.4.1."""

log = structlog.get_logger()


class Left(Exception):
    """The client has closed, or its connection broke."""


class Client:
    """Who has been let in. Several tasks may send; one receives."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.cp: ControlPlane = auth.control_plane(socket)

    @property
    def caller(self) -> Caller:
        return auth.caller(self._socket)

    async def send(self, message: Message | bytes) -> None:
        """Waits while the client is slow. :raises Left:"""
        try:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(msgspec.json.encode(message))
        except (OSError, WebSocketDisconnect) as error:
            raise Left from error

    async def receive(self) -> str | bytes:
        """:raises Left:"""
        try:
            event: dict[str, Any] = dict(await self._socket.receive())
        except WebSocketDisconnect as error:
            raise Left from error
        if event["type"] != "websocket.receive":
            raise Left
        text: str | None = event.get("text")
        return text if text is not None else event.get("bytes") or b""

    async def first(self, kind: Decoder[T], *, within: float = FIRST_SEC) -> T:
        """:raises InvalidRequest: something else came, or nothing; :raises Left:"""
        try:
            async with asyncio.timeout(within):
                return read(await self.receive(), kind)
        except TimeoutError as error:
            raise InvalidRequest(f"nothing came for {within:g} s") from error


async def serve(
    socket: Socket, talk: Callable[[Client], Coroutine[Any, Any, None]], failure: Callable[[str], Message]
) -> None:
    """
    :param talk: what the client came for; it is cancelled when the client may not be here any more
    :param failure: how an error is told
    """
    client = Client(socket)
    request_id = http.request_id_of(socket.scope)
    socket.scope["state"][http.REQUEST_ID] = request_id
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        check = _by_headers(socket) if auth.has_credentials(socket) else None
        if check is not None:
            try:
                await check()
            except WrennError as error:
                await _refuse(client, socket, error)
                return
            await audit.record_socket(client.cp, socket.scope)
        with contextlib.suppress(Left):
            await _let_in(client, socket, check, talk, failure)


async def first_of(*works: Awaitable[None]) -> None:
    """Until one of them ends; the others are cancelled. Raises what that one did."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def read(message: str | bytes, kind: Decoder[T]) -> T:
    """:raises InvalidRequest:"""
    if isinstance(message, bytes):
        raise InvalidRequest("a text was expected, not bytes")
    try:
        return kind.decode(message)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the message is not as expected: {error}") from error


async def _let_in(
    client: Client,
    socket: Socket,
    check: Callable[[], Awaitable[None]] | None,
    talk: Callable[[Client], Coroutine[Any, Any, None]],
    failure: Callable[[str], Message],
) -> None:
    code = _NORMAL
    try:
        await socket.accept()
        if check is None:
            check = await _by_message(client, socket)
        await first_of(talk(client), _welcome(client, check))
    except Unauthorized as error:
        code = _REFUSED
        await client.send(failure(f"authentication failed: {error.message}"))
    except WrennError as error:
        http.note(error)
        code = _FAILED if error.status >= 500 else _REFUSED
        await client.send(failure(f"{error.message}; {error.hint}" if error.hint else error.message))
    except (Left, OSError, WebSocketDisconnect) as error:
        raise Left from error
    except Exception as error:
        code = _FAILED
        log.error("mistake of ours", action="internal_error", path=socket.url.path, exc_info=error)
        await client.send(failure(Internal("something went wrong on our side").message))
    with contextlib.suppress(OSError, WebSocketDisconnect):
        await socket.close(code)


async def _welcome(client: Client, check: Callable[[], Awaitable[None]]) -> None:
    """Ends only by raising: the client may not be here any more, or the control plane stops."""
    clock = asyncio.get_running_loop()
    feed = client.cp.feed
    asked = clock.time()
    with feed.waiting(client.caller.team_id) as change:
        while not feed.closing:
            change.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(asked + ACCESS_SEC):
                    await change.wait()
            if clock.time() - asked >= ACCESS_SEC:
                # Without the database nobody can take anything away either.
                with contextlib.suppress(Unavailable):
                    await check()
                asked = clock.time()
    raise Unavailable("the control plane stops", hint="come back in a moment")


def _by_headers(socket: Socket) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        if auth.is_by_cookie(socket) and _is_of_another_site(socket):
            raise Forbidden("the request comes from another site's page", code="csrf")
        await auth.caller_guard(socket, socket.route_handler)

    return _again(socket, check)


def _again(socket: Socket, check: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """A user's token is looked at once, its session from then on: tokens last for minutes, terminals for days."""

    async def look() -> None:
        who = auth.admitted(socket)
        if who is None or who.user_id is None:
            await check()
        else:
            auth.admit(socket, socket.route_handler, await users.still(auth.control_plane(socket), who))

    return look


async def _by_message(client: Client, socket: Socket) -> Callable[[], Awaitable[None]]:
    """:raises Unauthorized: :raises Forbidden: :raises Left:"""

    async def check() -> None:
        auth.admit(socket, socket.route_handler, await auth.by_secret(client.cp, token))

    try:
        try:
            token = (await client.first(_AUTH, within=AUTH_SEC)).token
        except InvalidRequest as error:
            raise Unauthorized(
                "no credentials came with the request, and none in the first message"
            ) from error
        await check()
    except WrennError as error:
        await audit.record_socket(client.cp, socket.scope, error)
        raise
    await audit.record_socket(client.cp, socket.scope)
    return _again(socket, check)


def _is_of_another_site(socket: Socket) -> bool:
    """Programs that are no browser say nothing of a site."""
    origin = socket.headers.get("origin")
    if origin is None:
        return False
    site = urlsplit(origin).netloc.lower()
    ours = {
        socket.headers.get("host", "").lower(),
        urlsplit(auth.control_plane(socket).config.public_url).netloc,
    }
    return not site or site not in ours


async def _refuse(client: Client, socket: Socket, error: WrennError) -> None:
    """As HTTP, with the problem as any other refusal has it."""
    http.note(error)
    request_id = socket.scope["state"][http.REQUEST_ID]
    body = problems.encode(error, request_id)
    await audit.record_socket(client.cp, socket.scope, error)
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
    start = {"type": "websocket.http.response.start", "status": error.status, "headers": headers}
    with contextlib.suppress(OSError, WebSocketDisconnect):
        await socket.send(start)  # pyright: ignore[reportArgumentType] - an extension that Litestar does not know
        await socket.send({"type": "websocket.http.response.body", "body": body})  # pyright: ignore[reportArgumentType]
