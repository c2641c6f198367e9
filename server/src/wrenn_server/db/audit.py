"""The audit log: rows are appended and read, nothing else. Each holds the SHA-256 of itself and the one before it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from wrenn_server.db.pool import Executor, rows

PLATFORM = "platform"
"""The chain of what is no team's."""

ActorType = Literal["user", "api_key", "host", "anonymous"]


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """What is known of a request; number, time and hash come from the chain."""

    id: str
    chain: str
    actor_type: ActorType
    actor_id: str | None
    peer: str
    method: str
    operation: str
    resource_type: str | None
    resource_id: str | None
    status: int
    code: str | None
    request_id: str


class AuditRow(msgspec.Struct, kw_only=True):
    chain: str
    number: int
    id: str
    at: datetime
    actor_type: ActorType
    actor_id: str | None
    actor_name: str | None
    peer: str
    method: str
    operation: str
    resource_type: str | None
    resource_id: str | None
    status: int
    code: str | None
    request_id: str
    digest: bytes


class Head(msgspec.Struct, kw_only=True):
    chain: str
    number: int
    digest: bytes


class Filter(msgspec.Struct, kw_only=True, frozen=True):
    actor_id: str | None = None
    operation: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    refused: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


async def append(db: Executor, entry: Entry) -> None:
    """Does nothing when the entry is there already: whoever does not know whether it is may try again."""
    await db.execute(
        """SELECT audit_append(ROW($2, 0, $1, now(), $3, $4, NULL, $5, $6, $7, $8, $9, $10::int, $11, $12, '')::audit_logs)
            WHERE NOT EXISTS (SELECT FROM audit_logs WHERE id = $1)""",
        entry.id,
        entry.chain,
        entry.actor_type,
        entry.actor_id,
        entry.peer,
        entry.method,
        entry.operation,
        entry.resource_type,
        entry.resource_id,
        entry.status,
        entry.code,
        entry.request_id,
    )


async def page(
    db: Executor, chain: str, wanted: Filter, *, before: int | None = None, limit: int
) -> list[AuditRow]:
    """Newest first.

    :param before: number of the last one of the page before
    """
    args: list[object] = [chain, 2**63 - 1 if before is None else before, limit]

    def arg(value: object) -> str:
        args.append(value)
        return f"${len(args)}"

    conditions = ["chain = $1", "number < $2"]
    for column, value in (
        ("actor_id", wanted.actor_id),
        ("operation", wanted.operation),
        ("resource_type", wanted.resource_type),
        ("resource_id", wanted.resource_id),
    ):
        if value is not None:
            conditions.append(f"{column} = {arg(value)}")
    if wanted.refused is not None:
        conditions.append(f"(status >= 400) = {arg(wanted.refused)}")
    if wanted.since is not None:
        conditions.append(f"at >= {arg(wanted.since)}")
    if wanted.until is not None:
        conditions.append(f"at < {arg(wanted.until)}")
    records = await db.fetch(
        f"SELECT * FROM audit_logs WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT $3",  # noqa: S608 - values are arguments
        *args,
    )
    return rows(records, AuditRow)


async def after(db: Executor, chain: str, number: int, limit: int) -> list[AuditRow]:
    """Oldest first."""
    records = await db.fetch(
        "SELECT * FROM audit_logs WHERE chain = $1 AND number > $2 ORDER BY number LIMIT $3",
        chain,
        number,
        limit,
    )
    return rows(records, AuditRow)


async def heads(db: Executor) -> Sequence[Head]:
    """Of all chains, also of those that have rows and, by some mischief, no head: their number is then 0."""
    records = await db.fetch(
        """SELECT chain, coalesce(h.number, 0) AS number, coalesce(h.digest, '') AS digest
             FROM audit_heads h FULL JOIN (SELECT DISTINCT chain FROM audit_logs) l USING (chain) ORDER BY chain"""
    )
    return rows(records, Head)
