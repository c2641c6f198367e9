"""ledger: what pools cost, in entries that balance and never change; invoices"""

from wrenn_server.db.migrations.script import run

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run("0009_ledger.up.sql")


def downgrade() -> None:
    run("0009_ledger.down.sql")
