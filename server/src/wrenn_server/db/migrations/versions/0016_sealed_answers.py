"""sealed answers: those that are given again to an idempotency key"""

from wrenn_server.db.migrations.script import run

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run("0016_sealed_answers.up.sql")


def downgrade() -> None:
    run("0016_sealed_answers.down.sql")
