"""audit: who asked for what, in chains that nobody can change unseen"""

from wrenn_server.db.migrations.script import run

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run("0007_audit.up.sql")


def downgrade() -> None:
    run("0007_audit.down.sql")
