"""One public listener: reads each request's head, asks the program where it goes, and moves the bytes."""

import ssl as tls
from collections.abc import Callable, Hashable
from typing import Self

import msgspec

from wrenn_server.edge.target import Exchange, Route


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    connections: int = 10_000
    head: float = 10.0
    """From the first byte of a head to its last."""
    idle: float = 320.0
    """Between two requests of a connection; longer than the 300 s that E2B's SDKs keep one, so that they close first."""
    connect: float = 10.0
    """To open a connection to an upstream, retries included."""
    silence: float = 3600.0
    """Without a byte in either direction during an exchange. TCP keep-alive finds dead peers earlier."""
    grace: float = 10.0
    """For requests to finish when the listener stops."""


class Listener:
    """
    ```python
    async with Listener("0.0.0.0:8000", route, ssl=context) as listener:
        listener.address            # "0.0.0.0:8000", the real port when 0 was asked for
        listener.abort(sandbox_id)  # every exchange and idle connection of that group: RST on both sides, now
        await stopped.wait()
    # left: no new connections, requests in flight finish within limits.grace
    ```

    :param address: `HOST:PORT` (IPv6 in brackets) or the path of a Unix socket
    :param observe: called with every finished exchange; must be quick and not raise
    """

    def __init__(
        self,
        address: str,
        route: Route,
        *,
        ssl: tls.SSLContext | None = None,
        limits: Limits | None = None,
        reuse_port: bool = False,
        observe: Callable[[Exchange], None] | None = None,
    ) -> None:
        self.address = address
        self.route = route
        self.ssl = ssl
        self.limits = limits or Limits()
        self.reuse_port = reuse_port
        self.observe = observe

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(self, *_: object) -> None:
        raise NotImplementedError

    def abort(self, group: Hashable) -> None:
        raise NotImplementedError
