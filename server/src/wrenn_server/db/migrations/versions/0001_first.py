"""users, teams, keys, hosts, templates, sandboxes"""

from wrenn_server.db.migrations.script import run

revision = "0001"
down_revision = None


def upgrade() -> None:
    run("0001_first.up.sql")


def downgrade() -> None:
    run("0001_first.down.sql")
