"""interrupted: an index for what rests in the middle of a move or a rollback"""

from wrenn_server.db.migrations.script import run

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run("0017_interrupted.up.sql")


def downgrade() -> None:
    run("0017_interrupted.down.sql")
