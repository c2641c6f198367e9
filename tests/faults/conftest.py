from support.postgres import database_url, postgres
from support.programs import port

__all__ = ["database_url", "port", "postgres"]
