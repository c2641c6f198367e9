"""`/v1/auth/signup`, `/v1/me`, `/v1/admin/users`: people."""

from typing import Annotated

from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody, QueryParameter

from wrenn_server.controlplane import schema_people as schema
from wrenn_server.controlplane.api import auth, shape_people
from wrenn_server.controlplane.api.auth import Cp, From, Who
from wrenn_server.controlplane.services import accounts, administration


@post("/v1/auth/signup", operation_id="signUp", tags=["users"])
async def sign_up(cp: Cp, client: From, data: JSONBody[schema.SignUp]) -> schema.Told:
    """Ask for an account. The answer is the same whether the address has one or not: a mail tells what to do."""
    await accounts.sign_up(cp, data.email, data.password, data.name, client)
    return schema.Told(message="a mail with what to do next is on its way")


@post("/v1/me/password/reset", operation_id="askForPasswordReset", tags=["users"], status_code=204)
async def ask_for_reset(cp: Cp, client: From, data: JSONBody[schema.PasswordAsk]) -> None:
    """Have a link sent with which a new password can be set. The answer is the same for unknown addresses."""
    await accounts.ask_for_reset(cp, data.email, client)


@post("/v1/me/password/reset/confirm", operation_id="resetPassword", tags=["users"], status_code=204)
async def reset(cp: Cp, client: From, data: JSONBody[schema.PasswordReset]) -> None:
    """Set a new password with the token of the mailed link. All sessions end."""
    await accounts.reset(cp, data.token, data.new_password, client)


@get("/v1/me", operation_id="getMe", tags=["users"])
async def get_me(cp: Cp, caller: Who) -> schema.Me:
    """Who you are, and in which team this token works."""
    return shape_people.me(await accounts.me(cp, caller), caller, await accounts.providers(cp, caller))


@patch("/v1/me", operation_id="updateMe", tags=["users"])
async def update_me(cp: Cp, caller: Who, data: JSONBody[schema.MeUpdate]) -> schema.Me:
    """Change your name."""
    user = await accounts.rename(cp, caller, data.name)
    return shape_people.me(user, caller, await accounts.providers(cp, caller))


@post("/v1/me/password", operation_id="changePassword", tags=["users"], status_code=204)
async def change_password(cp: Cp, caller: Who, data: JSONBody[schema.PasswordChange]) -> None:
    """Change your password. Your other sessions end."""
    await accounts.change_password(cp, caller, data.current_password or None, data.new_password)


@delete("/v1/me", operation_id="deleteMe", tags=["users"])
async def delete_me(cp: Cp, caller: Who, data: JSONBody[schema.MeDelete]) -> None:
    """Delete your account, and the teams in which nobody else is, with their sandboxes."""
    await accounts.delete(cp, caller, data.confirmation)


@get("/v1/admin/users", operation_id="listUsers", tags=["administration"])
async def listing(
    cp: Cp,
    caller: Who,
    cursor: Annotated[str | None, QueryParameter(description="`id` of the last one before")] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
) -> list[schema.Account]:
    """All users, newest first."""
    return [shape_people.account(row) for row in await administration.users(cp, cursor, limit)]


@patch("/v1/admin/users/{user_id:str}", operation_id="updateUser", tags=["administration"], status_code=204)
async def update(cp: Cp, caller: Who, user_id: FromPath[str], data: JSONBody[schema.AccountUpdate]) -> None:
    """Disable or enable a user; make them an administrator of the platform, or not any more. Takes effect at once."""
    await administration.update_user(
        cp, caller, user_id, active=auth.given(data.active), is_admin=auth.given(data.is_admin)
    )


OPEN_ROUTES = [sign_up, ask_for_reset, reset]
USER_ROUTES = [get_me, update_me, change_password, delete_me]
ADMIN_ROUTES = [listing, update]
