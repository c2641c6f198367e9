from support.postgres import database_url, db, empty_database, postgres

__all__ = ["database_url", "db", "empty_database", "postgres"]
