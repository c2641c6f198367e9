"""`Idempotency-Key`: a POST that comes again with its key is not carried out again, and gets the answer that it got.

One place for the whole native API: a new route needs nothing for that, unless it is an exception. Creates of sandboxes
see to it themselves, because what they make is noted together with making it (`services/idempotency.py`); of the rest
only the answer is known, so what a control plane died over is carried out anew.
"""

from typing import Annotated, Any, cast

import msgspec
from litestar.enums import ScopeType
from litestar.params import HeaderParameter
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from wrenn_server.controlplane.api import auth
from wrenn_server.controlplane.api.http import StrictRequest
from wrenn_server.controlplane.services import idempotency
from wrenn_server.controlplane.services.idempotency import Claim, Effect, Work

NAME = "Idempotency-Key"
BY_ITSELF = "createSandbox"

_NO_TEAM = "keys are a team's, and nobody has been let in yet"
_LOG_IN = "its answer lets in, and belongs into no table; once more does no harm"
_HASH = "what is kept of a request to know it again would be a quick hash of a password"
_ROUTINE = "agents say it all the time, each time anew"
_READ = "it changes nothing"
EXCEPTIONS = {
    "signUp": _NO_TEAM,
    "activate": _NO_TEAM,
    "login": _NO_TEAM,
    "refreshSession": _NO_TEAM,
    "askForPasswordReset": _NO_TEAM,
    "resetPassword": _NO_TEAM,
    "registerHost": _NO_TEAM,
    "renewHost": "a host's, and has no team; once more gives a token that is as good",
    "switchTeam": _LOG_IN,
    "logout": "it ends what a repetition would be let in with",
    "changePassword": _HASH,
    "heartbeat": _ROUTINE,
    "sendSamples": _ROUTINE,
    "readFile": _READ,
    "listFiles": _READ,
    "writeFile": "an upload may be longer than what we hold in memory; the same file once more is the same file",
    "exec": "its answer is what a guest says, as much as it likes to",
}
"""Operations that do not know the header, each with the reason."""

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name=NAME,
        description="1 to 255 letters, digits, - and _. The same request with the same key is carried out once, and "
        "gets the same answer for a day",
    ),
]


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


def answered_once(app: ASGIApp) -> ASGIApp:
    """Middleware. Whoever repeats a request must still be let in, and be who asked first: answers hold secrets."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "POST":
            await app(scope, receive, send)
            return
        handler = cast("Any", scope["route_handler"])
        request = StrictRequest(scope, receive)
        key = request.headers.get(NAME)
        if key is None or handler.operation_id == BY_ITSELF or handler.operation_id in EXCEPTIONS:
            await app(scope, receive, send)
            return
        await handler.authorize_connection(request)  # once more when it is carried out, and then as ever
        who = auth.caller(request)

        async def carry_out(_: Claim | None) -> Answer:
            return await _answer(app, scope, receive)

        what = f"{who.actor} POST {scope['path']}?{scope['query_string'].decode('latin-1')}"
        asked = idempotency.request(who.team_id, key, what, await request.body())
        work = Work(Answer, carry_out, _nothing, _is_failure)
        answer = await idempotency.once(auth.control_plane(request), asked, work)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    return wrapped


async def _answer(app: ASGIApp, scope: Scope, receive: Receive) -> Answer:
    messages: list[dict[str, Any]] = []

    async def send(message: Message) -> None:
        messages.append(cast("dict[str, Any]", message))

    await app(scope, receive, send)
    start, *parts = messages
    return Answer(
        start["status"],
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]],
        b"".join(part["body"] for part in parts),
    )


async def _nothing(_: str) -> Effect:
    return Effect.NOTHING


def _is_failure(answer: Answer) -> bool:
    return answer.status >= 400
