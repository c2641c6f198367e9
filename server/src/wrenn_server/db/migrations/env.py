"""Alembic's entry: `wrenn_server.db.migrate` hands over the connection, nothing is read from a file."""

from alembic import context
from sqlalchemy import Connection

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="schema_version")
with context.begin_transaction():
    context.run_migrations()
