"""Calls to a sandbox's envd through the tunnel. The guest is hostile: every read, size and wait has a bound."""

import base64
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.hosts_client import Host
from wrenn_server.controlplane.services import wakes
from wrenn_server.controlplane.services.routes import Location
from wrenn_server.model.errors import (
    Conflict,
    Forbidden,
    GuestError,
    InvalidRequest,
    NotFound,
    TimedOut,
    TooLarge,
    Unavailable,
    WrennError,
)
from wrenn_server.model.ids import SandboxId, parse_sandbox_id
from wrenn_server.model.sandbox import State
from wrenn_server.wire import envd, http1

T = TypeVar("T")

UNARY_LIMIT = 8 * 1024 * 1024
"""Bytes of the longest answer to one call, e.g. a listing."""
_ERROR_LIMIT = 64 * 1024
_HEALTH_SEC = 5.0
_USER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,31}\$?")


@dataclass(frozen=True, slots=True)
class Guest:
    """A running sandbox of the caller's team."""

    id: SandboxId
    host: Host
    access_token: str = field(repr=False)

    def headers(self, user: str | None = None) -> list[tuple[str, str]]:
        """:raises InvalidRequest: no user can have this name"""
        found = [("X-Access-Token", self.access_token)]
        if user is not None:
            if not _USER.fullmatch(user):
                raise InvalidRequest(f"{user[:64]!r} is not the name of a user")
            found.append(("Authorization", "Basic " + base64.b64encode(f"{user}:".encode()).decode()))
        return found


async def running(cp: ControlPlane, team_id: str, sandbox_id: str) -> Guest:
    """
    :raises NotFound: no such sandbox of this team
    :raises Conflict: it does not run
    """
    parsed, location = await _locate(cp, team_id, sandbox_id)
    return _guest(cp, parsed, location)


async def awake(cp: ControlPlane, team_id: str, sandbox_id: str) -> Guest:
    """As `running`, but one that sleeps and has `auto_resume` is woken, as requests to its ports would."""
    parsed, location = await _locate(cp, team_id, sandbox_id)
    if location.auto_resume and location.state in (State.PAUSING, State.PAUSED, State.RESUMING):
        location = await wakes.wake(cp, parsed, location)
    return _guest(cp, parsed, location)


async def _locate(cp: ControlPlane, team_id: str, sandbox_id: str) -> tuple[SandboxId, Location]:
    parsed = parse_sandbox_id(sandbox_id)
    if parsed is None:
        raise NotFound(f"sandbox {sandbox_id[:64]} does not exist", code="sandbox_not_found")
    location = await cp.routes.locate(parsed)
    if location.team_id != team_id:
        raise NotFound(f"sandbox {sandbox_id} does not exist", code="sandbox_not_found")
    return parsed, location


def _guest(cp: ControlPlane, sandbox_id: SandboxId, location: Location) -> Guest:
    if location.state is not State.RUNNING or location.host_id is None or location.address is None:
        raise Conflict(f"sandbox {sandbox_id} is {location.state}, not running")
    cp.seen.sandbox(sandbox_id)
    return Guest(sandbox_id, Host(location.host_id, location.address), location.access_token)


async def demand_health(cp: ControlPlane, guest: Guest) -> None:
    """:raises Unavailable: `guest_unresponsive`, envd does not answer"""
    try:
        async with connected(cp, guest, head=_HEALTH_SEC) as connection:
            response = await connection.request("GET", "/health")
            await response.read(limit=_ERROR_LIMIT)
    except (GuestError, TimedOut) as error:
        raise Unavailable(
            f"the agent in sandbox {guest.id} does not answer", code="guest_unresponsive"
        ) from error


@asynccontextmanager
async def connected(
    cp: ControlPlane, guest: Guest, *, head: float | None = 10.0, idle: float | None = 60.0
) -> AsyncGenerator[http1.Connection, None]:
    """One connection to envd; what breaks inside the block becomes one of our errors.

    :param head: seconds until an answer begins
    :param idle: seconds between two pieces of it
    :raises Unavailable: the host is away; :raises GuestError: envd is gone, or talks nonsense; :raises TimedOut:
    """
    with mapped(guest):
        stream = await cp.hosts.tunnel(guest.host, guest.id, envd.PORT)
        timeouts = http1.Timeouts(head=head, idle=idle)
        async with http1.Connection(stream, host=guest.id, timeouts=timeouts) as connection:
            yield connection


class mapped:  # noqa: N801 - reads as a statement
    """Foreign errors of a conversation with envd as ours."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        name = f"sandbox {self._guest.id}"
        match error:
            case WrennError(code="sandbox_not_found"):
                raise Conflict(f"{name} does not run any more") from error
            case WrennError(code="port_not_open"):
                raise GuestError(f"{name} does not answer: its agent envd is not there") from error
            case TimeoutError():
                raise TimedOut(f"{name} did not answer in time") from error
            case http1.Broken() | envd.ProtocolError() | msgspec.DecodeError() | msgspec.ValidationError():
                raise GuestError(f"{name} gave an answer that makes no sense") from error
            case http1.TooMuch():
                raise TooLarge(f"{name} answered with too much", code="output_too_large") from error
            case OSError():
                raise Unavailable(f"the host of {name} cannot be reached") from error
            case _:
                pass


async def unary(
    cp: ControlPlane, guest: Guest, method: str, request: object, answer: type[T], *, user: str | None = None
) -> T:
    """A Connect call with one answer, e.g. `filesystem.Filesystem/ListDir`."""
    async with connected(cp, guest) as connection:
        return await ask(connection, guest, method, request, answer, user=user)


async def ask(
    connection: http1.Connection,
    guest: Guest,
    method: str,
    request: object,
    answer: type[T],
    *,
    user: str | None = None,
) -> T:
    """As `unary`, of several calls over one connection."""
    response = await connection.request(
        "POST",
        f"/{method}",
        headers=[
            *guest.headers(user),
            ("Content-Type", "application/json"),
            ("Connect-Protocol-Version", "1"),
        ],
        body=msgspec.json.encode(request),
    )
    content = await response.read(limit=UNARY_LIMIT)
    if response.status != 200:
        raise connect_error(_decode_error(content[:_ERROR_LIMIT]))
    return msgspec.json.decode(content, type=answer)


def connect_error(error: envd.ConnectError) -> WrennError:
    """envd's refusals. Its words are for people and may have been chosen by the guest: they are cut and shown."""
    message = printable(error.message)
    match error.code:
        case "invalid_argument" | "unauthenticated" if (
            "username" in message or error.code == "invalid_argument"
        ):
            return InvalidRequest(message)
        case "not_found":
            return NotFound(message)
        case "permission_denied":
            return Forbidden(message)
        case "already_exists":
            return Conflict(message, code="conflict")
        case "deadline_exceeded" | "canceled":
            return TimedOut(message)
        case _:
            return GuestError(f"{error.code[:40]}: {message}")


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:1000])


def _decode_error(content: bytes) -> envd.ConnectError:
    try:
        return msgspec.json.decode(content, type=envd.ConnectError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return envd.ConnectError(message="no reason given")
