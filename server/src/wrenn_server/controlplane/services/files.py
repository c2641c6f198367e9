"""Files of a sandbox, through envd: streamed, never collected here."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from urllib.parse import quote

import msgspec

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import guest as guests
from wrenn_server.controlplane.services.guest import Guest
from wrenn_server.model.errors import (
    Forbidden,
    GuestError,
    InvalidRequest,
    NotFound,
    TooLarge,
    WrennError,
)

_ERROR_LIMIT = 64 * 1024


class Entry(msgspec.Struct, kw_only=True, rename="camel"):
    """envd's EntryInfo. Everything in it was chosen by the guest."""

    name: str = ""
    type: str = ""
    path: str = ""
    size: int | str = 0
    mode: int = 0
    permissions: str = ""
    owner: str = ""
    group: str = ""
    modified_time: str = ""
    symlink_target: str | None = None


class _Listing(msgspec.Struct):
    entries: list[Entry] = []


class _ListDir(msgspec.Struct):
    path: str
    depth: int


class _Path(msgspec.Struct):
    path: str


class _Made(msgspec.Struct):
    entry: Entry


class _Failure(msgspec.Struct):
    message: str = ""


async def listing(cp: ControlPlane, guest: Guest, path: str, depth: int) -> list[Entry]:
    """:raises NotFound: :raises InvalidRequest: not a directory"""
    request = _ListDir(path, depth)
    return (await guests.unary(cp, guest, "filesystem.Filesystem/ListDir", request, _Listing)).entries


async def make_dir(cp: ControlPlane, guest: Guest, path: str) -> Entry:
    """With its parents. :raises Conflict: something is there; :raises InvalidRequest:"""
    return (await guests.unary(cp, guest, "filesystem.Filesystem/MakeDir", _Path(path), _Made)).entry


async def remove(cp: ControlPlane, guest: Guest, path: str) -> None:
    """With all that is in it. :raises NotFound:"""
    request = _Path(path)
    # envd takes what is not there for removed.
    await guests.unary(cp, guest, "filesystem.Filesystem/Stat", request, msgspec.Raw)
    await guests.unary(cp, guest, "filesystem.Filesystem/Remove", request, msgspec.Raw)


@asynccontextmanager
async def reading(
    cp: ControlPlane, guest: Guest, path: str
) -> AsyncGenerator[tuple[int | None, AsyncIterable[bytes]], None]:
    """The length of a file, when it is known, and its bytes as they come.

    :raises NotFound: :raises InvalidRequest: it is a directory, or a device
    """
    async with guests.connected(cp, guest, head=30.0) as connection:
        response = await connection.request(
            "GET", f"/files?path={quote(path, safe='')}", headers=guest.headers()
        )
        if response.status != 200:
            raise _failure(response.status, await response.read(limit=_ERROR_LIMIT))
        length = response.header("content-length")
        yield int(length) if length is not None else None, response.aiter()


async def write(cp: ControlPlane, guest: Guest, path: str, content: AsyncIterable[bytes]) -> None:
    """Makes parents, replaces what is there. An error inside `content` leaves a file cut short.

    :raises InvalidRequest: it is a directory; :raises TooLarge: `disk_full`
    """
    headers = [*guest.headers(), ("Content-Type", "application/octet-stream")]
    # The answer comes when the whole file is written, which takes as long as the client sends.
    async with guests.connected(cp, guest, head=None) as connection:
        response = await connection.request(
            "POST", f"/files?path={quote(path, safe='')}", headers=headers, body=content
        )
        answer = await response.read(limit=_ERROR_LIMIT)
        if response.status != 200:
            raise _failure(response.status, answer)


def _failure(status: int, content: bytes) -> WrennError:
    try:
        message = guests.printable(msgspec.json.decode(content, type=_Failure).message)
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = f"the sandbox answered {status}"
    match status:
        case 400:
            return InvalidRequest(message)
        case 403:
            return Forbidden(message)
        case 404:
            return NotFound(message, code="file_not_found")
        case 507:
            return TooLarge(message, code="disk_full")
        case _:
            return GuestError(message)
