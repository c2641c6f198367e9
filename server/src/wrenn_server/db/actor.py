"""Who asks for what the statements of this task do: noted in the rows of sandboxes and snapshots when something is begun
with them, and from there in their events. Tasks inherit it from whoever starts them."""

from contextvars import ContextVar

current: ContextVar[str | None] = ContextVar("actor", default=None)
"""`user usr_…`, `api_key key_…`; None: the platform by itself"""
