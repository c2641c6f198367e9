"""people: activation, sessions, invitations, what an API key may do, how often something may be tried"""

from wrenn_server.db.migrations.script import run

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run("0006_people.up.sql")


def downgrade() -> None:
    run("0006_people.down.sql")
