"""API keys: a team's, with what they may do; and keys that reach one sandbox alone."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import sandboxes
from wrenn_server.controlplane.services.users import Caller, key_digest
from wrenn_server.db import api_keys as db_api_keys
from wrenn_server.db.api_keys import ApiKeyRow
from wrenn_server.db.pool import Executor
from wrenn_server.model.errors import Forbidden, NotFound
from wrenn_server.model.ids import new_key_id
from wrenn_server.model.people import Scope

DEFAULT: tuple[Scope, ...] = ("read", "write")


@dataclass(frozen=True, slots=True)
class NewKey:
    row: ApiKeyRow
    key: str = field(repr=False)


async def make(
    db: Executor,
    *,
    team_id: str,
    name: str,
    created_by: str | None,
    scopes: Sequence[Scope] = DEFAULT,
    expires_in_sec: int | None = None,
    sandbox_id: str | None = None,
) -> NewKey:
    key = "wrn_" + secrets.token_hex(20)
    digest = key_digest(key)
    if digest is None:
        raise AssertionError("a key of ours has our form")
    row = await db_api_keys.insert(
        db,
        id=new_key_id(),
        team_id=team_id,
        name=name.strip() or "Unnamed API key",
        digest=digest,
        key_prefix=key[:10],
        created_by=created_by,
        scopes=sorted(set(scopes)),
        expires_in_sec=expires_in_sec,
        sandbox_id=sandbox_id,
    )
    return NewKey(row, key)


async def create(
    cp: ControlPlane, caller: Caller, *, name: str, scopes: Sequence[Scope], expires_in_sec: int | None
) -> NewKey:
    """:raises Forbidden: by a key that may not, or with more than the caller has"""
    _demand_team(caller)
    for scope in scopes:
        caller.demand(scope)
    return await make(
        cp.db,
        team_id=caller.team_id,
        name=name,
        created_by=caller.user_id,
        scopes=scopes,
        expires_in_sec=expires_in_sec,
    )


async def create_for_sandbox(
    cp: ControlPlane,
    caller: Caller,
    sandbox_id: str,
    *,
    name: str,
    scopes: Sequence[Scope],
    expires_in_sec: int | None,
) -> NewKey:
    """To hand to an end user or a browser: it ends with the sandbox.

    :raises NotFound: :raises Forbidden: by a key of one sandbox, or with more than the caller has
    """
    if caller.sandbox_id is not None:
        raise Forbidden("a key of one sandbox makes no further keys", code="scope_required")
    for scope in scopes:
        caller.demand(scope)
    row = await sandboxes.get(cp, caller.team_id, sandbox_id)
    return await make(
        cp.db,
        team_id=caller.team_id,
        name=name,
        created_by=caller.user_id,
        scopes=scopes,
        expires_in_sec=expires_in_sec,
        sandbox_id=row.id,
    )


async def delete(cp: ControlPlane, caller: Caller, key_id: str) -> None:
    """Members remove their own, who administers the team any.

    :raises NotFound: :raises Forbidden:
    """
    _demand_team(caller)
    row = await _get(cp, caller, key_id)
    if "admin" not in caller.scopes and row.created_by != caller.user_id:
        raise Forbidden(
            "only owners and administrators of the team remove keys of others", code="role_required"
        )
    if not await db_api_keys.delete(cp.db, row.id, caller.team_id):
        raise _no_key(key_id)


async def delete_of_sandbox(cp: ControlPlane, caller: Caller, sandbox_id: str, key_id: str) -> None:
    """:raises NotFound: :raises Forbidden: by a key of one sandbox"""
    if caller.sandbox_id is not None:
        raise Forbidden("a key of one sandbox removes none", code="scope_required")
    row = await _get(cp, caller, key_id)
    if row.sandbox_id != sandbox_id or not await db_api_keys.delete(cp.db, row.id, caller.team_id):
        raise _no_key(key_id)


async def delete_named(db: Executor, team_id: str, name: str) -> None:
    await db_api_keys.delete_named(db, team_id, name)


async def _get(cp: ControlPlane, caller: Caller, key_id: str) -> ApiKeyRow:
    row = None
    if re.fullmatch(r"key_[a-z0-9]{20}", key_id):
        row = await db_api_keys.get(cp.db, key_id, caller.team_id)
    if row is None:
        raise _no_key(key_id)
    return row


def _demand_team(caller: Caller) -> None:
    """Keys make keys only when they may administer the team; every member makes some for what members may do."""
    if caller.user_id is None:
        caller.demand("admin")


def _no_key(key_id: str) -> NotFound:
    return NotFound(f"API key {key_id[:64]} does not exist")
