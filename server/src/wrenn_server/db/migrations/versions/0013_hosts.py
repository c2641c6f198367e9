"""hosts: of a team's own, tags and zones"""

from wrenn_server.db.migrations.script import run

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run("0013_hosts.up.sql")


def downgrade() -> None:
    run("0013_hosts.down.sql")
