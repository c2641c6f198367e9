"""Hosts: registration, removal. A `regular` host serves everybody and is the affair of the platform's
administrators; a `byoc` one is a team's own. Its agent is its team's, and is believed about that team alone.

```
 POST /v1/hosts ──► pending ── register (token, once) ──► heartbeat ──► online ── 90 s of silence ──► unreachable
                                                                          ▲                               │
                                                                          └────────── heartbeat ──────────┘
```
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.keys import HostClaims
from wrenn_server.controlplane.services.users import Caller
from wrenn_server.db import hosts as db_hosts
from wrenn_server.db import sandboxes as db_sandboxes
from wrenn_server.db import snapshots as db_snapshots
from wrenn_server.db import teams as db_teams
from wrenn_server.db import transitions
from wrenn_server.db.hosts import HostRow
from wrenn_server.db.pool import Database
from wrenn_server.model.address import Address
from wrenn_server.model.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthorized
from wrenn_server.model.ids import new_host_id, parse_host_id
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent

TOKEN_LIFETIME_SEC = 3600
INSTALLATION = 64
"""Characters of an installation's name."""
_OWN_MAX = 256
"""Hosts of one team."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Created:
    host: HostRow
    registration_token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A host that is to be.

    :ivar team_id: whose own it is; None: it serves everybody
    """

    team_id: str | None = None
    tags: Sequence[str] = ()
    availability_zone: str | None = None


async def create_for(cp: ControlPlane, caller: Caller, wanted: Wanted) -> Created:
    """As `create`, by somebody: administrators of the platform make all, those of a team its own.

    :raises Forbidden: it would serve everybody; :raises NotFound: there is no such team, or it is another one
    :raises Conflict: `too_many_hosts`
    """
    team_id = wanted.team_id
    if team_id is None and not caller.is_admin:
        raise Forbidden(
            "only administrators of the platform make hosts that serve everybody",
            hint="one of your team's own is of the type `byoc`",
        )
    if team_id is not None:
        known = team_id == caller.team_id or (caller.is_admin and await db_teams.get(cp.db, team_id))
        if not known:
            raise NotFound(f"team {team_id[:64]} does not exist", code="team_not_found")
        if len(await db_hosts.listing(cp.db, team_id=team_id)) >= _OWN_MAX:
            raise Conflict(
                f"a team has at most {_OWN_MAX} hosts of its own",
                code="too_many_hosts",
                hint="delete records of those that will not come back",
            )
    return await create(cp.db, wanted, caller.user_id)


async def create(db: Database, wanted: Wanted, created_by: str | None) -> Created:
    """A record for a host that will register within an hour."""
    token = _new_token()
    async with db.transaction() as tx:
        host = await db_hosts.insert(
            tx,
            id=new_host_id(),
            team_id=wanted.team_id,
            tags=wanted.tags,
            availability_zone=wanted.availability_zone,
            created_by=created_by,
        )
        await db_hosts.insert_token(
            tx, host_id=host.id, digest=_digest(token), lifetime_sec=TOKEN_LIFETIME_SEC
        )
    return Created(host, token)


async def new_token(db: Database, host_id: str) -> Created:
    """Another registration token, in place of an unused one: for an agent that lost its credentials, or never got
    the answer to its registration. The credentials that the host has stay valid until the token is used."""
    host = await get(db, host_id)
    token = _new_token()
    await db_hosts.insert_token(db, host_id=host.id, digest=_digest(token), lifetime_sec=TOKEN_LIFETIME_SEC)
    return Created(host, token)


async def register(cp: ControlPlane, request: agent.Register) -> agent.Registered:
    """
    :raises Unauthorized: `token_invalid`, `token_used`, `token_expired`
    :raises InvalidRequest: the token stays usable
    """
    check_specs(request.specs)
    digest = _digest(request.token)
    token = await db_hosts.token(cp.db, digest)
    if token is None:
        raise Unauthorized(
            "this registration token is not valid",
            code="token_invalid",
            hint="create a host with POST /v1/hosts, or a new token with POST /v1/hosts/{id}/token",
        )
    _check_token(token)
    address = address_of(await get(cp.db, token.host_id), request.address)
    # Signed before the token is used up: a request that cannot be signed must not cost it.
    certificate = cp.keys.certify(request.csr_pem, token.host_id, address)
    host = await db_hosts.register(
        cp.db, digest=digest, address=None if address is None else str(address), specs=request.specs
    )
    if host is None:  # somebody was faster with the same token
        _check_token(await db_hosts.token(cp.db, digest) or token)
        raise Unauthorized("this registration token has been used already", code="token_used")
    log.info("host registered", action="host_registered", host_id=host.id, address=host.address)
    return agent.Registered(
        host_id=host.id,
        token=cp.keys.host_token(HostClaims(host.id, host.token_epoch)),
        cert_pem=certificate,
        ca_cert_pem=cp.keys.ca_pem,
        control_plane_key_pem=cp.keys.signing_public_pem,
    )


async def authenticate(cp: ControlPlane, token: str) -> HostRow:
    """The host whose token this is. The first use of a renewed one ends the one before.

    :raises Unauthorized: also when the host was removed, or has another token since
    """
    claims = cp.keys.read_host_token(token)
    host = await db_hosts.get(cp.db, claims.host_id)
    if host is not None and host.token_epoch < claims.epoch:
        host = await db_hosts.use_epoch(cp.db, host.id, claims.epoch) or host
    if host is None or host.token_epoch != claims.epoch:
        raise _refused(host)
    return host


async def renew(cp: ControlPlane, host: HostRow, request: agent.Renew) -> agent.Renewed:
    """A new certificate and the next token. The token of now stays good until the next is used, so an answer that never
    arrives costs nothing: the agent asks again.

    :param host: as it was when its token was looked at
    :raises InvalidRequest: :raises Conflict: `identity_in_use`
    :raises Unauthorized: meanwhile it was removed, or got another token
    """
    certificate = cp.keys.certify(request.csr_pem, host.id, _parse_address(host.address))
    epoch = await db_hosts.offer_epoch(cp.db, host.id, host.token_epoch, request.installation[:INSTALLATION])
    if epoch is None:
        now = await db_hosts.get(cp.db, host.id)
        same = now is not None and now.token_epoch == host.token_epoch
        raise identity_in_use(host.id) if same else _refused(now)
    log.info("host renews its credentials", action="host_renewed", host_id=host.id, epoch=epoch)
    return agent.Renewed(token=cp.keys.host_token(HostClaims(host.id, epoch)), cert_pem=certificate)


def identity_in_use(host_id: str) -> Conflict:
    return Conflict(
        f"another installation has the credentials of host {host_id}, and is there",
        code="identity_in_use",
        hint="it is a copy: give it a host of its own with POST /v1/hosts, and wrenn-agent --register TOKEN",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """All must hold that is given.

    :ivar tags: that it has, all of them
    """

    team_id: str | None = None
    type: str | None = None
    status: str | None = None
    tags: Sequence[str] = ()
    availability_zone: str | None = None


async def page(
    cp: ControlPlane, caller: Caller, wanted: Filter, *, after: tuple[datetime, str] | None, limit: int
) -> list[HostRow]:
    """Of all for administrators of the platform, for others of their team's own; the oldest first, at most `limit`.

    :param after: created_at and id of the last one before
    """
    if not caller.is_admin:
        if wanted.team_id not in (None, caller.team_id):
            return []
        wanted = replace(wanted, team_id=caller.team_id)
    return await db_hosts.listing(
        cp.db,
        team_id=wanted.team_id,
        type=wanted.type,
        status=wanted.status,
        tags=wanted.tags,
        availability_zone=wanted.availability_zone,
        after=after,
        limit=limit,
    )


async def seen(cp: ControlPlane, caller: Caller, host_id: str) -> HostRow:
    """:raises NotFound: also those that the caller has nothing to do with"""
    host = await get(cp.db, host_id)
    if not caller.is_admin and host.team_id != caller.team_id:
        raise _not_found(host_id)
    return host


async def set_traits(
    cp: ControlPlane,
    host: HostRow,
    *,
    tags: Sequence[str] | None,
    availability_zone: str | None,
    keep_zone: bool,
) -> HostRow:
    """For what is placed from now on; sandboxes that are there stay.

    :param tags: None: as before; :param keep_zone: the zone stays as before, too
    :raises NotFound: it was removed
    """
    changed = await db_hosts.set_traits(
        cp.db, host.id, tags=tags, availability_zone=availability_zone, keep_zone=keep_zone
    )
    if changed is None:
        raise _not_found(host.id)
    return changed


async def get(db: Database, host_id: str) -> HostRow:
    """:raises NotFound:"""
    parsed = parse_host_id(host_id)
    host = await db_hosts.get(db, parsed) if parsed else None
    if host is None:
        raise _not_found(host_id)
    return host


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is on a host, by what its removal would make of it: ids."""

    lost: list[str]
    """Sandboxes that would be `failed`."""
    kept: list[str]
    """Paused ones that rest in an object store, and would go on elsewhere."""
    snapshots: list[str]
    """That are in no object store, and would be lost."""


async def holdings(cp: ControlPlane, host: HostRow) -> Holdings:
    alive = await db_sandboxes.alive_on(cp.db, host.id)
    unstored = await db_snapshots.unstored_on(cp.db, host.id)
    lost, kept = list[str](), list[str]()
    for row in alive:
        (kept if row.state is State.PAUSED and row.is_stored else lost).append(row.id)
    return Holdings(lost, kept, [row.id for row in unstored])


async def delete(cp: ControlPlane, host: HostRow, *, force: bool) -> None:
    """Removes the record; its token is refused from then on. The agent and what runs there are not touched.

    :param force: although it has something; what becomes of that is told by `holdings`
    :raises Conflict: `host_has_sandboxes`, `host_has_snapshots`
    """
    held = await holdings(cp, host)
    sandboxes = len(held.lost) + len(held.kept)
    if sandboxes and not force:
        raise Conflict(
            f"host {host.id} has {sandboxes} sandboxes",
            code="host_has_sandboxes",
            hint="drain it or kill them first, or delete with ?force=true when the host will never come back; "
            "GET …/delete-preview tells what would be lost",
        )
    if held.snapshots and not force:
        raise Conflict(
            f"host {host.id} has {len(held.snapshots)} snapshots that are nowhere else",
            code="host_has_snapshots",
            hint="delete them first, or delete the host with ?force=true when it will never come back",
        )
    await transitions.forget(cp.db, host.id)
    await db_hosts.delete(cp.db, host.id)


def _refused(host: HostRow | None) -> Unauthorized:
    """:param host: whose token does not count any more; None: it is gone"""
    if host is None:
        return Unauthorized("this host has been removed", code="host_removed")
    return Unauthorized(
        "this host has registered anew or renewed its token; this token is of before",
        code="token_replaced",
        hint=f"get a registration token with POST /v1/hosts/{host.id}/token",
    )


def _check_token(token: db_hosts.TokenRow) -> None:
    if token.used_at is not None:
        raise Unauthorized(
            "this registration token has been used already",
            code="token_used",
            hint=f"get a new one with POST /v1/hosts/{token.host_id}/token",
        )
    if token.expired:
        raise Unauthorized(
            "this registration token has expired; it is valid for one hour",
            code="token_expired",
            hint=f"get a new one with POST /v1/hosts/{token.host_id}/token",
        )


def check_specs(specs: agent.HostSpecs) -> None:
    for name, value, most in (
        ("cpus", specs.cpus, 65536),
        ("memory_mb", specs.memory_mb, 2**30),
        ("disk_mb", specs.disk_mb, 2**30),
    ):
        if not 0 <= value <= most:
            raise InvalidRequest(f"specs.{name} is {value}: expected 0 to {most}")
    texts = (specs.arch, specs.vmm, specs.vmm_version, specs.version, specs.machine, specs.store)
    if any(len(text) > 100 for text in texts):
        raise InvalidRequest("a text in specs is longer than 100 characters")


def _parse_address(text: str | None) -> Address | None:
    if text is None:
        return None
    try:
        return Address.parse(text)
    except ValueError as error:
        raise InvalidRequest(f"address {text[:100]!r}: {error}") from error


def address_of(host: HostRow, text: str | None) -> Address | None:
    """What an agent says that it can be reached at. :raises InvalidRequest: it is none, or not one for such a host"""
    address = _parse_address(text)
    check_address(host, address)
    return address


def check_address(host: HostRow, address: Address | None) -> None:
    """:raises InvalidRequest: we would speak without TLS to something on our own machine, because a team says so"""
    if host.team_id is not None and (address is None or address.is_loopback):
        raise InvalidRequest(
            "a team's own host needs an address that the control plane can reach it at",
            hint="start its agent with --address HOST:PORT, not of the loopback interface",
        )


def _not_found(host_id: str) -> NotFound:
    return NotFound(f"host {host_id[:64]} does not exist", code="host_not_found")


def _new_token() -> str:
    return "reg_" + secrets.token_hex(32)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
