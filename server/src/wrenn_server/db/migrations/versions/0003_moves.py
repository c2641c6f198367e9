"""object store: what of sandboxes and snapshots is in it, and hosts that become empty"""

from wrenn_server.db.migrations.script import run

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run("0003_moves.up.sql")


def downgrade() -> None:
    run("0003_moves.down.sql")
