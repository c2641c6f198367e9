from support.postgres import database_url, db, empty_database, postgres
from support.simulated import host, host_with_envd, world

__all__ = ["database_url", "db", "empty_database", "host", "host_with_envd", "postgres", "world"]
