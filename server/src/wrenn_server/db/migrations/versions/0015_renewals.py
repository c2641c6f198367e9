"""renewals: a host's next token before its last one is refused"""

from wrenn_server.db.migrations.script import run

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run("0015_renewals.up.sql")


def downgrade() -> None:
    run("0015_renewals.down.sql")
