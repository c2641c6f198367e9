"""sealed answers: those that are given again to an idempotency key"""

from wrenn_server.db.migrations.script import run

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run("0015_sealed_answers.up.sql")


def downgrade() -> None:
    run("0015_sealed_answers.down.sql")
