"""usage: what sandboxes used, by day, counted once"""

from wrenn_server.db.migrations.script import run

revision = "0012"
down_revision = "0010"


def upgrade() -> None:
    run("0012_usage.up.sql")


def downgrade() -> None:
    run("0012_usage.down.sql")
