"""pools: what a team has bought, what its sandboxes draw, and the queue before it; prices and plans"""

from wrenn_server.db.migrations.script import run

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run("0008_pools.up.sql")


def downgrade() -> None:
    run("0008_pools.down.sql")
