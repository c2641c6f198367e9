"""Whose signature it is: envd's signed links are SHA-256 over the access token of one sandbox."""

from wrenn_server.db.pool import Executor


async def sandbox_of(db: Executor, digest: bytes, before: str, after: str) -> str | None:
    """The sandbox with `digest = SHA-256(before + access token + after)`, of those that requests can reach.

    Looks at every living sandbox: 80 ms for 100,000 of them, and more for a long `before`.
    """
    return await db.fetchval(
        """SELECT id FROM sandboxes
            WHERE state NOT IN ('failed', 'killed')
              AND (state = 'running' OR (auto_resume AND state IN ('pausing', 'paused', 'resuming')))
              AND sha256(convert_to($2 || access_token || $3, 'UTF8')) = $1
            LIMIT 1""",
        digest, before, after,
    )  # fmt: skip
