# Generated from _async/client.py by scripts/generate_sync.py: change it there.

"""A client: where the platform is, who asks, and one pool of connections for all its sandboxes."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from wrenn._concurrency import scope
from wrenn._sync._transport import Transport
from wrenn.config import Config, Timeouts


class Client:
    """A connection to the platform, to share between sandboxes.

    ```python
    with Client(api_key="wrn_…", base_url="https://wrenn.example") as client:
        with Sandbox.create(client=client) as sandbox:
            ...
    ```

    Rarely needed: sandboxes that are made without one share one of the same settings anyway, and it is closed with
    the last of them.

    :raises ConfigError: no API key, or a value that cannot be one
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        proxy_domain: str | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.config = Config.resolve(
            base_url=base_url, api_key=api_key, proxy_domain=proxy_domain, timeouts=timeouts
        )
        self.transport = Transport(self.config)
        self._users: int | None = None
        """How many sandboxes use a client that nobody made explicitly."""

    def close(self) -> None:
        """Closes the connections. A later call opens new ones."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self.config.base_url!r})"

    @classmethod
    def shared(
        cls, *, api_key: str | None = None, base_url: str | None = None, proxy_domain: str | None = None
    ) -> Client:
        """The client of these settings; every call is to be paired with one of `release`."""
        fresh = cls(api_key=api_key, base_url=base_url, proxy_domain=proxy_domain)
        with _guard:
            client = _shared.setdefault((scope(), fresh.config), fresh)
            client._users = (client._users or 0) + 1
            return client

    def acquire(self) -> Client:
        """Itself, for one more user."""
        with _guard:
            if self._users is not None:
                self._users += 1
        return self

    def release(self) -> None:
        """Ends one use: the last one of a shared client closes its connections. Others are closed by their owner."""
        with _guard:
            if self._users is None:
                return
            self._users -= 1
            last = self._users == 0
        if last:
            self.close()


_guard = threading.Lock()
_shared: WeakValueDictionary[tuple[object, Config], Client] = WeakValueDictionary()
"""Found again while a sandbox holds one; nothing is kept alive from here."""
