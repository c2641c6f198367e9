"""installations: which data directory of which machine speaks for a host"""

from wrenn_server.db.migrations.script import run

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run("0014_installations.up.sql")


def downgrade() -> None:
    run("0014_installations.down.sql")
