"""`/v1/auth/oauth`: log-in with other sites, by the browser."""

from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Request, Response, delete, get
from litestar.datastructures import Cookie
from litestar.params import FromPath, QueryParameter

from wrenn_server.controlplane.api import audit, auth, sessions
from wrenn_server.controlplane.api.auth import Cp, From, Who
from wrenn_server.controlplane.services import oauth
from wrenn_server.controlplane.services.oauth import STATE_SEC, Begun, Refused

STATE_COOKIE = "wrenn_oauth"
_PATH = "/v1/auth/oauth"
_LONGEST = 4096


@get(_PATH + "/{provider:str}", operation_id="beginOAuth", tags=["sessions"], status_code=302)
async def begin(cp: Cp, provider: FromPath[str]) -> Response[None]:
    """For a browser: leads to the other site, which leads back."""
    return _lead(cp.config.secure_cookies, await oauth.begin(cp, provider, None))


@get(
    "/v1/me/providers/{provider:str}/connect",
    operation_id="connectProvider",
    tags=["users"],
    status_code=302,
    opt=auth.needs("write"),
)
async def connect(cp: Cp, caller: Who, provider: FromPath[str]) -> Response[None]:
    """For a browser that is logged in: leads to the other site, to link its account with yours."""
    return _lead(cp.config.secure_cookies, await oauth.begin(cp, provider, caller))


@delete("/v1/me/providers/{provider:str}", operation_id="disconnectProvider", tags=["users"])
async def disconnect(cp: Cp, caller: Who, provider: FromPath[str]) -> None:
    """Log in with another site no longer."""
    await oauth.unlink(cp, caller, provider)


@get(_PATH + "/{provider:str}/callback", operation_id="finishOAuth", tags=["sessions"], status_code=302)
async def finish(
    cp: Cp,
    client: From,
    request: Request[Any, Any, Any],
    provider: FromPath[str],
    code: Annotated[str | None, QueryParameter(max_length=_LONGEST)] = None,
    nonce: Annotated[str | None, QueryParameter(name="state", max_length=_LONGEST)] = None,
) -> Response[None]:
    """Where the other site leads back to: begins a browser's session and leads to the web interface, with `?error=` when it
    did not work."""
    try:
        made = await oauth.finish(
            cp,
            provider,
            code=code,
            nonce=nonce,
            state=request.cookies.get(STATE_COOKIE),
            client=client,
        )
    except Refused as refused:
        audit.note(request, audit.Noted(code=refused.reason))
        query = "?" + urlencode({"error": refused.reason})
        cookies: list[Cookie] = []
    else:
        query = ""
        cookies = sessions.cookies(cp.config, made) if made else []
        if made:
            audit.note(request, audit.Noted(actor=("user", made.user.id, made.team_id)))
    cookies.append(Cookie(STATE_COOKIE, path=_PATH, max_age=0))
    headers = {"Location": f"{cp.config.public_url}/{query}", "Cache-Control": "no-store"}
    return Response(None, status_code=302, headers=headers, cookies=cookies)


def _lead(secure: bool, begun: Begun) -> Response[None]:
    # Lax: the browser must send it when the other site leads back.
    state = Cookie(
        STATE_COOKIE,
        value=begun.state,
        path=_PATH,
        max_age=STATE_SEC,
        secure=secure,
        httponly=True,
        samesite="lax",
    )
    headers = {"Location": begun.url, "Cache-Control": "no-store"}
    return Response(None, status_code=302, headers=headers, cookies=[state])


OPEN_ROUTES = [begin, finish]
USER_ROUTES = [connect, disconnect]
