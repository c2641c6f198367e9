"""Users as other sites know them."""

from wrenn_server.db.pool import Executor


async def user_of(db: Executor, provider: str, subject: str) -> str | None:
    return await db.fetchval(
        "SELECT user_id FROM identities WHERE provider = $1 AND subject = $2", provider, subject
    )


async def insert(db: Executor, *, provider: str, subject: str, user_id: str, login: str) -> bool:
    """False: one of the two is linked already."""
    done = await db.execute(
        """INSERT INTO identities (provider, subject, user_id, login) VALUES ($1, $2, $3, $4)
           ON CONFLICT DO NOTHING""",
        provider,
        subject,
        user_id,
        login,
    )
    return done != "INSERT 0 0"


async def delete(db: Executor, provider: str, user_id: str) -> bool:
    done = await db.execute("DELETE FROM identities WHERE provider = $1 AND user_id = $2", provider, user_id)
    return done != "DELETE 0"


async def of_user(db: Executor, user_id: str) -> list[str]:
    records = await db.fetch("SELECT provider FROM identities WHERE user_id = $1 ORDER BY provider", user_id)
    return [record["provider"] for record in records]
