"""Requests that name themselves with a key, and the answers that are given again when they come again.

Whoever carries a request out holds its key's `generation`; every write of theirs names it, so that one who was
thought dead and replaced cannot write any more.
"""

import msgspec

from wrenn_server.db.pool import Executor, row

KEPT_HOURS = 24
"""How long an answer is given again."""
SILENCE_SEC = 15.0
"""After so long without a sign of life, whoever carries a request out counts as dead."""


class KeyRow(msgspec.Struct, kw_only=True):
    digest: bytes
    """Of the request that the key came with."""
    generation: int
    resource: str | None
    """Id of what the request makes; it is on record since the same moment."""
    answer: bytes | None
    """Sealed. None: there is none yet."""
    silent: bool
    """Nothing was heard of its owner for `SILENCE_SEC`."""


async def claim(db: Executor, team_id: str, key: str, digest: bytes) -> int | None:
    """The generation under which the caller may carry the request out. None: the key is somebody's already."""
    return await db.fetchval(
        """INSERT INTO idempotency_keys AS k (team_id, key, digest) VALUES ($1, $2, $3)
           ON CONFLICT (team_id, key) DO UPDATE
              SET digest = $3, generation = k.generation + 1, resource = NULL, answer = NULL,
                  created_at = now(), seen_at = now()
            WHERE k.created_at < now() - make_interval(hours => $4)
           RETURNING k.generation""",
        team_id,
        key,
        digest,
        KEPT_HOURS,
    )


async def get(db: Executor, team_id: str, key: str) -> KeyRow | None:
    record = await db.fetchrow(
        """SELECT digest, generation, resource, answer, seen_at < now() - make_interval(secs => $3) AS silent
             FROM idempotency_keys WHERE team_id = $1 AND key = $2""",
        team_id,
        key,
        SILENCE_SEC,
    )
    return row(record, KeyRow)


async def take_over(db: Executor, team_id: str, key: str, generation: int) -> int | None:
    """The next generation, if the owner of this one is still silent and has given no answer."""
    return await db.fetchval(
        """UPDATE idempotency_keys SET generation = generation + 1, resource = NULL, seen_at = now()
            WHERE team_id = $1 AND key = $2 AND generation = $3 AND answer IS NULL
              AND seen_at < now() - make_interval(secs => $4)
        RETURNING generation""",
        team_id,
        key,
        generation,
        SILENCE_SEC,
    )


async def bind(db: Executor, team_id: str, key: str, generation: int, resource: str) -> bool:
    """Notes what is being made; a sign of life. False: somebody else has taken over."""
    return (
        await db.execute(
            """UPDATE idempotency_keys SET resource = $4, seen_at = now()
                WHERE team_id = $1 AND key = $2 AND generation = $3 AND answer IS NULL""",
            team_id,
            key,
            generation,
            resource,
        )
        != "UPDATE 0"
    )


async def seen(db: Executor, team_id: str, key: str, generation: int) -> None:
    """A sign of life."""
    await db.execute(
        "UPDATE idempotency_keys SET seen_at = now() WHERE team_id = $1 AND key = $2 AND generation = $3",
        team_id,
        key,
        generation,
    )


async def answer(db: Executor, team_id: str, key: str, generation: int, content: bytes) -> None:
    await db.execute(
        """UPDATE idempotency_keys SET answer = $4
            WHERE team_id = $1 AND key = $2 AND generation = $3 AND answer IS NULL""",
        team_id,
        key,
        generation,
        content,
    )


async def release(db: Executor, team_id: str, key: str, generation: int) -> None:
    """The request came to nothing: the next one with the key starts anew."""
    await db.execute(
        """DELETE FROM idempotency_keys
            WHERE team_id = $1 AND key = $2 AND generation = $3 AND answer IS NULL""",
        team_id,
        key,
        generation,
    )


async def expire(db: Executor) -> None:
    await db.execute(
        "DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(hours => $1)", KEPT_HOURS
    )
