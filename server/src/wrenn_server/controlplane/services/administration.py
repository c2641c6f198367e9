"""What administrators of the platform do with its users."""

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db import sessions as db_sessions
from wrenn_server.db import users as db_users
from wrenn_server.db.users import AccountRow
from wrenn_server.model.errors import Conflict, InvalidRequest, NotFound


async def users(cp: ControlPlane, after_id: str | None, limit: int) -> list[AccountRow]:
    """Newest first. :raises InvalidRequest: there is no user of the cursor's id"""
    after = None
    if after_id is not None:
        last = await db_users.get(cp.db, after_id)
        if last is None:
            raise InvalidRequest("cursor: there is no such user", hint="begin again without a cursor")
        after = (last.created_at, last.id)
    return await db_users.accounts(cp.db, after=after, limit=limit)


async def update_user(
    cp: ControlPlane, caller: Caller, user_id: str, *, active: bool | None, is_admin: bool | None
) -> None:
    """:raises NotFound: :raises Conflict: administrators do not lock themselves out"""
    if user_id == caller.user_id and (active is False or is_admin is False):
        raise Conflict(
            "you cannot take this from yourself", code="own_account", hint="another administrator can"
        )
    async with cp.db.transaction() as tx:
        user = await db_users.lock(tx, user_id)
        if user is None or user.status == "deleted":
            raise NotFound(f"user {user_id[:64]} does not exist")
        if active is not None and (user.status, active) in (("active", False), ("disabled", True)):
            await db_users.set_status(tx, user_id, "active" if active else "disabled")
            if not active:
                await db_sessions.delete_of_user(tx, user_id)
        if is_admin is not None:
            await db_users.set_admin(tx, user_id, is_admin=is_admin)
