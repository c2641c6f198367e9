"""Runs one SQL file of `versions/` inside the migration's transaction."""

from importlib import resources
from typing import Any

from alembic import op
from sqlalchemy import text
from sqlalchemy.util import await_only


def run(name: str) -> None:
    """Statements go to the server as one script: splitting SQL with function bodies is not for us to do."""
    sql = resources.files("wrenn_server.db.migrations").joinpath("versions", name).read_text()
    bind = op.get_bind()
    bind.execute(text("SELECT 1"))  # SQLAlchemy opens the transaction with its first statement
    raw: Any = bind.connection.driver_connection
    await_only(raw.execute(sql))
