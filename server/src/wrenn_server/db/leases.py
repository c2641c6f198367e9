"""Who works on a sandbox. `check_after` is the lease: whoever works on a row keeps it in the future, the reconciler takes
rows where it has passed. And jobs that one control plane does at a time."""

from collections.abc import Sequence

from wrenn_server.db.pool import Connection, Executor, rows
from wrenn_server.db.sandboxes import LEASE_SEC, SandboxRow


async def alone(tx: Connection, job: int) -> bool:
    """Until the end of the transaction; False: another control plane is at that job.

    :param job: any number that nothing else locks"""
    return await tx.fetchval("SELECT pg_try_advisory_xact_lock($1)", job)


async def hold(db: Executor, sandbox_id: str, generation: int) -> bool:
    """Takes a row that nobody works on, to be given back by `release`. False: somebody does, or it has changed."""
    return (
        await db.execute(
            """UPDATE sandboxes SET check_after = now() + make_interval(secs => $3)
                WHERE id = $1 AND generation = $2 AND check_after IS NULL""",
            sandbox_id,
            generation,
            LEASE_SEC,
        )
        != "UPDATE 0"
    )


async def look_into(db: Executor, ids: Sequence[str]) -> None:
    """The reconciler shall ask the hosts about these, unless somebody works on them anyway."""
    await db.execute(
        """UPDATE sandboxes SET check_after = now()
            WHERE id IN (SELECT id FROM sandboxes WHERE id = ANY($1) AND check_after IS NULL
                          ORDER BY id FOR UPDATE SKIP LOCKED)""",
        list(ids),
    )


async def claim(db: Executor, limit: int) -> list[SandboxRow]:
    """Takes over rows whose worker has died or that shall be looked into, with a new lease."""
    records = await db.fetch(
        """UPDATE sandboxes SET check_after = now() + make_interval(secs => $2)
            WHERE id IN (SELECT id FROM sandboxes WHERE check_after <= now()
                          ORDER BY check_after LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING *""",
        limit,
        LEASE_SEC,
    )
    return rows(records, SandboxRow)


async def extend(db: Executor, ids: Sequence[str]) -> None:
    """Whoever works on these is still at it."""
    await db.execute(
        """UPDATE sandboxes SET check_after = now() + make_interval(secs => $2)
            WHERE id IN (SELECT id FROM sandboxes WHERE id = ANY($1) AND check_after IS NOT NULL
                          ORDER BY id FOR UPDATE SKIP LOCKED)""",
        list(ids),
        LEASE_SEC,
    )


async def release(db: Executor, sandbox_id: str, generation: int, delay_sec: float | None) -> None:
    """Gives a claimed row back: to be looked into again after `delay_sec`, or (None) not at all."""
    await db.execute(
        """UPDATE sandboxes SET check_after = now() + make_interval(secs => $3)
            WHERE id = $1 AND generation = $2 AND check_after IS NOT NULL""",
        sandbox_id,
        generation,
        delay_sec,
    )
