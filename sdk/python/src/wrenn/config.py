"""Where the platform is, who is asking, and how long to wait."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from wrenn.errors import ConfigError

DEFAULT_BASE_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long the client waits, in seconds; none of these ends anything on the server.

    Two other times belong to calls and are kept by the server: `commands.run(timeout=…)`, the deadline at which a
    command is killed, and `Sandbox.create(timeout=…)`, the end of the sandbox itself.
    """

    connect: float = 10.0
    """To open a connection."""
    request: float = 30.0
    """Without a byte of the answer to a short request; also between two pieces of a file."""
    lifecycle: float = 300.0
    """The same for create, pause, resume and fork; the first create of a template boots it."""
    silence: float = 60.0
    """Without a byte on the stream of a command. The sandbox sends a keep-alive every `keepalive` seconds, so
    a longer silence means that it is gone."""
    keepalive: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Resolved settings of a client."""

    base_url: str
    api_key: str = field(repr=False)
    proxy_domain: str
    """What follows `{port}-{sandbox id}.` in the host name of a port of a sandbox."""
    timeouts: Timeouts = Timeouts()

    @classmethod
    def resolve(
        cls,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        proxy_domain: str | None = None,
        timeouts: Timeouts | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Arguments first, then `WRENN_BASE_URL`, `WRENN_API_KEY`, `WRENN_PROXY_DOMAIN`, then defaults.

        :raises ConfigError: no API key, or a value that cannot be one
        """
        environ = os.environ if environ is None else environ
        url = _checked_url(base_url or environ.get("WRENN_BASE_URL") or DEFAULT_BASE_URL)
        key = api_key or environ.get("WRENN_API_KEY")
        if not key:
            raise ConfigError(
                "no API key",
                hint="pass api_key=, or set WRENN_API_KEY; `wrenn up` writes one to wrenn.env in its data "
                "directory: `set -a; . /var/lib/wrenn/wrenn.env`",
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError("the API key contains characters that no key has")
        return cls(
            base_url=url,
            api_key=key,
            proxy_domain=proxy_domain or environ.get("WRENN_PROXY_DOMAIN") or default_proxy_domain(url),
            timeouts=timeouts or Timeouts(),
        )

    @property
    def scheme(self) -> str:
        return urlsplit(self.base_url).scheme


def default_proxy_domain(base_url: str) -> str:
    """Host and port of the base URL. For a loopback address `localhost`, since an address has no subdomains, and
    many resolvers know every name below `localhost`."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    try:
        if ipaddress.ip_address(host).is_loopback:
            host = "localhost"
    except ValueError:
        pass
    return f"{host}:{parts.port}" if parts.port else host


def proxy_for(base_url: str) -> str | None:
    """The HTTP proxy that the environment names for this URL (`HTTPS_PROXY`, `NO_PROXY`…), if any."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or default_proxy_domain(base_url).split(":")[0] == "localhost":
        return None
    return None if urllib.request.proxy_bypass(host) else proxy


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{url!r} is not a base URL", hint="it looks like http://127.0.0.1:8000")
    return url.rstrip("/")
