"""The platform's own keys."""

import msgspec

from wrenn_server.db.pool import Executor, row


class PlatformKeyRow(msgspec.Struct, kw_only=True):
    name: str
    private_pem: str
    public_pem: str


async def get(db: Executor, name: str) -> PlatformKeyRow | None:
    return row(await db.fetchrow("SELECT * FROM platform_keys WHERE name = $1", name), PlatformKeyRow)


async def insert(db: Executor, *, name: str, private_pem: str, public_pem: str) -> None:
    """Does nothing when a replica was faster."""
    await db.execute(
        """INSERT INTO platform_keys (name, private_pem, public_pem) VALUES ($1, $2, $3)
           ON CONFLICT (name) DO NOTHING""",
        name,
        private_pem,
        public_pem,
    )
