"""How often something may be tried: buckets that fill again with time, shared by all control planes."""

from wrenn_server.db.pool import Executor


async def take(db: Executor, what: str, *, capacity: float, per_second: float) -> bool:
    """One out of the bucket. False: it is empty."""
    left = await db.fetchval(
        """INSERT INTO attempts AS a (what, left_over) VALUES ($1, $2 - 1)
           ON CONFLICT (what) DO UPDATE
              SET left_over = least($2, a.left_over + $3 * extract(epoch FROM now() - a.updated_at)) - 1,
                  updated_at = now()
            WHERE least($2, a.left_over + $3 * extract(epoch FROM now() - a.updated_at)) >= 1
        RETURNING left_over""",
        what,
        capacity,
        per_second,
    )
    return left is not None


async def give_back(db: Executor, what: str) -> None:
    await db.execute("UPDATE attempts SET left_over = left_over + 1 WHERE what = $1", what)


async def forget(db: Executor, what: str) -> None:
    await db.execute("DELETE FROM attempts WHERE what = $1", what)


async def expire(db: Executor, age_sec: float) -> None:
    """Every bucket is full again after this time."""
    await db.execute("DELETE FROM attempts WHERE updated_at < now() - make_interval(secs => $1)", age_sec)
