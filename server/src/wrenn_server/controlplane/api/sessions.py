"""`/v1/auth`: log-ins."""

from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.datastructures import Cookie
from litestar.params import FromPath, JSONBody

from wrenn_server.controlplane import schema_people as schema
from wrenn_server.controlplane.api import audit, auth, shape_people
from wrenn_server.controlplane.api.auth import Cp, From, Who
from wrenn_server.controlplane.config import Config
from wrenn_server.controlplane.services import accounts, sessions
from wrenn_server.controlplane.services.sessions import LIFETIME_SEC, Login


@post("/v1/auth/login", operation_id="login", tags=["sessions"], status_code=200)
async def login(
    cp: Cp, client: From, request: Request[Any, Any, Any], data: JSONBody[schema.Login]
) -> Response[schema.LoggedIn]:
    """A token for `Authorization: Bearer`, valid for an hour, and a refresh token for the next one; or the session of a
    browser."""
    audit.note(request, audit.Noted(about=("user", data.email)))
    made = await sessions.login(cp, data.email, data.password, client, "cookie" if data.cookie else "token")
    return answer(cp.config, made)


@post("/v1/auth/refresh", operation_id="refreshSession", tags=["sessions"], status_code=200)
async def refresh(cp: Cp, client: From, data: JSONBody[schema.Refresh]) -> Response[schema.LoggedIn]:
    """The next token, and the next refresh token: the old one works for another minute, in case this answer is lost."""
    return answer(cp.config, await sessions.refresh(cp, data.refresh_token, client))


@post("/v1/auth/activate", operation_id="activate", tags=["sessions"], status_code=200)
async def activate(cp: Cp, client: From, data: JSONBody[schema.Token]) -> Response[schema.LoggedIn]:
    """Prove an e-mail address with the token of the mailed link, and log in."""
    user = await accounts.activate(cp, data.token, client)
    return answer(cp.config, await sessions.begin(cp, user, client, "token"))


@post("/v1/auth/switch-team", operation_id="switchTeam", tags=["sessions"], status_code=200)
async def switch_team(cp: Cp, caller: Who, data: JSONBody[schema.SwitchTeam]) -> Response[schema.LoggedIn]:
    """Work in another of your teams, with the same session."""
    return answer(cp.config, await sessions.switch_team(cp, caller, data.team_id))


@post("/v1/auth/logout", operation_id="logout", tags=["sessions"], status_code=204)
async def logout(cp: Cp, caller: Who, request: Request[Any, Any, Any]) -> Response[None]:
    """End this session, at once."""
    await sessions.logout(cp, caller)
    gone: list[Cookie] = []
    if auth.SESSION_COOKIE in request.cookies:
        gone = [
            Cookie(auth.SESSION_COOKIE, path="/", max_age=0),
            Cookie(auth.CSRF_COOKIE, path="/", max_age=0),
        ]
    return Response(None, status_code=204, cookies=gone)


@get("/v1/me/sessions", operation_id="listSessions", tags=["sessions"])
async def listing(cp: Cp, caller: Who) -> list[schema.Session]:
    """Where you are logged in, newest first."""
    return [shape_people.session(row, caller) for row in await sessions.of_user(cp, caller)]


@delete("/v1/me/sessions", operation_id="endOtherSessions", tags=["sessions"])
async def delete_others(cp: Cp, caller: Who) -> None:
    """Log out everywhere else."""
    await sessions.revoke_others(cp, caller)


@delete("/v1/me/sessions/{session_id:str}", operation_id="endSession", tags=["sessions"])
async def delete_one(cp: Cp, caller: Who, session_id: FromPath[str]) -> None:
    """Log out somewhere."""
    await sessions.revoke(cp, caller, session_id)


def answer(config: Config, made: Login) -> Response[schema.LoggedIn]:
    headers = {"Cache-Control": "no-store"}
    return Response(
        shape_people.logged_in(made), cookies=cookies(config, made), status_code=200, headers=headers
    )


def cookies(config: Config, made: Login) -> list[Cookie]:
    """Of a browser's session; none of a program's."""
    if made.cookie is None or made.csrf is None:
        return []
    return [
        Cookie(
            name,
            value=value,
            path="/",
            max_age=int(LIFETIME_SEC),
            secure=config.secure_cookies,
            httponly=not readable,
            samesite="strict",
        )
        for name, value, readable in (
            (auth.SESSION_COOKIE, made.cookie, False),
            (auth.CSRF_COOKIE, made.csrf, True),
        )
    ]


OPEN_ROUTES = [login, refresh, activate]
USER_ROUTES = [switch_team, logout, listing, delete_others, delete_one]
