"""channels: where events are told, and what became of each"""

from wrenn_server.db.migrations.script import run

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run("0010_channels.up.sql")


def downgrade() -> None:
    run("0010_channels.down.sql")
