"""events: what happened, written with what made it happen, and numbered when it is on record"""

from wrenn_server.db.migrations.script import run

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run("0004_events.up.sql")


def downgrade() -> None:
    run("0004_events.down.sql")
