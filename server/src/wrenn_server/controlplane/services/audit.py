"""Who asked for what, from where, and what became of it. The log is append-only and each of its rows holds the hash of
itself and the one before it, so that nobody who can write to the database changes the past unseen."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import cast

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.db import audit
from wrenn_server.db.audit import AuditRow, Entry, Filter, Head
from wrenn_server.db.pool import Database
from wrenn_server.model.errors import WrennError

RETRY_SEC = 2.0
_READ = 500
_KINDS = {
    "key": "api_key", "usr": "user", "tpl": "template", "snap": "snapshot", "host": "host", "team": "team",
    "chn": "channel", "bld": "build", "inv": "invitation", "dlv": "delivery", "ses": "session",
}  # fmt: skip
"""What ids begin with."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Broken:
    """
    :ivar number: of the first row of the chain that is not as it was written
    """

    chain: str
    number: int
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    heads: list[Head]
    """Of the chains that are whole. Kept elsewhere, they prove later that no end of a chain was cut off."""
    broken: list[Broken]


async def record(cp: ControlPlane, entry: Entry) -> None:
    """On record when this returns. When it cannot be, what was done is done: the row is in the program's log, and is tried
    again until this program stops."""
    try:
        await audit.append(cp.db, entry)
    except Exception as error:
        log.error(
            "audit row must wait",
            action="audit_deferred",
            exc_info=error,
            **{f"audit_{name}": getattr(entry, name) for name in Entry.__struct_fields__},
        )
        cp.work.later(_again(cp, entry), f"audit {entry.id}")


async def page(
    cp: ControlPlane, chain: str, wanted: Filter, *, before: int | None, limit: int
) -> list[AuditRow]:
    """Newest first."""
    return await audit.page(cp.db, chain, wanted, before=before, limit=limit)


async def export(cp: ControlPlane, chain: str) -> AsyncGenerator[AuditRow]:
    """All of a chain that is there now, oldest first."""
    number = 0
    while found := await audit.after(cp.db, chain, number, _READ):
        for row in found:
            yield row
        number = found[-1].number


async def verify(db: Database) -> Verified:
    """Reads every row of every chain."""
    whole: list[Head] = []
    broken: list[Broken] = []
    for head in await audit.heads(db):
        found = await _verify(db, head)
        if isinstance(found, Broken):
            broken.append(found)
        else:
            whole.append(found)
    return Verified(whole, broken)


def digest(before: bytes, row: AuditRow) -> bytes:
    """SHA-256 of the digest of the row before (of the first one: nothing) and the row as a JSON array of texts."""
    content = [
        row.chain, str(row.number), row.id, f"{row.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", row.actor_type,
        row.actor_id, row.actor_name, row.peer, row.method, row.operation, row.resource_type, row.resource_id,
        str(row.status), row.code, row.request_id,
    ]  # fmt: skip
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(before + text.encode()).digest()


def resource(path: Mapping[str, object], answer: Mapping[str, object]) -> tuple[str, str] | None:
    """Type and id of what a request was about: the last id in its path, or else the one that its answer gives."""
    for name, value in reversed(list(path.items())):
        if isinstance(value, str):
            return kind(value) or name.removesuffix("_id"), value
    host = answer.get("host")
    inner = cast("dict[str, object]", host) if isinstance(host, dict) else answer
    for name in ("id", "sandboxID", "snapshotID", "host_id", "user_id"):
        if isinstance(value := inner.get(name), str):
            return kind(value) or name, value
    return None


def kind(id: str) -> str | None:
    """What an id is the id of."""
    prefix, _, rest = id.partition("_")
    if not rest:
        return "sandbox" if id.startswith("sb") and len(id) == 22 else None
    return _KINDS.get(prefix)


async def _again(cp: ControlPlane, entry: Entry) -> None:
    while True:
        await asyncio.sleep(RETRY_SEC)
        try:
            await audit.append(cp.db, entry)
        except WrennError:
            continue
        return


async def _verify(db: Database, head: Head) -> Head | Broken:
    number, last, reached = 0, b"", head.number == 0 and not head.digest
    while found := await audit.after(db, head.chain, number, _READ):
        for row in found:
            number += 1
            if row.number != number:
                return Broken(head.chain, number, f"row {number} is missing")
            last = digest(last, row)
            if last != row.digest:
                return Broken(
                    head.chain, number, f"row {number} was changed, or one before it removed or added"
                )
            if number == head.number:
                if last != head.digest:
                    return Broken(head.chain, number, "the chain was written anew: its head is another one")
                reached = True
    if not reached or (number and not head.number):
        # Rows that came after we read the head are none of this.
        return Broken(head.chain, number + 1, f"the head is at row {head.number}, the rows end at {number}")
    return Head(chain=head.chain, number=number, digest=last)
