"""what puts off the end of a sandbox's time to live"""

from wrenn_server.db.migrations.script import run

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run("0005_activity.up.sql")


def downgrade() -> None:
    run("0005_activity.down.sql")
