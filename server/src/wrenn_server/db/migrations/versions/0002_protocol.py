"""lifecycle and network of sandboxes; snapshots, tags, samples, answers by idempotency key"""

from wrenn_server.db.migrations.script import run

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run("0002_protocol.up.sql")


def downgrade() -> None:
    run("0002_protocol.down.sql")
