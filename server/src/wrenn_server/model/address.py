"""Addresses that programs of the platform listen on and reach each other at."""

import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    """Without brackets. Empty: all interfaces, for listening only."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`HOST:PORT`, also with `http://` or `https://` before it: where somebody is reached.

        :raises ValueError:
        """
        try:
            parts = urlsplit(text if "://" in text else f"//{text}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError("expected HOST:PORT") from error
        strange = parts.scheme not in {"", "http", "https"} or parts.path not in {"", "/"} or parts.query
        if not host or not port or strange or any(c <= " " or c > "~" or c == "@" for c in text):
            raise ValueError("expected HOST:PORT")
        return cls(host, port)

    @classmethod
    def parse_listen(cls, text: str) -> Self:
        """`HOST:PORT`, `:PORT` or `[V6]:PORT`; port 0 for any.

        :raises ValueError:
        """
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise ValueError("expected HOST:PORT or :PORT")
        host = host.removeprefix("[").removesuffix("]")
        if "/" in host or "@" in host:
            raise ValueError("expected HOST:PORT without a scheme or path")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Only there the programs speak plain HTTP; everywhere else TLS with the certificate that we signed."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
