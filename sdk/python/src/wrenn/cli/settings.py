"""Which platform the command line talks to: flags, environment, then the file that `wrenn up` writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from wrenn import Client
from wrenn.errors import ConfigError

NAMES = ("WRENN_BASE_URL", "WRENN_API_KEY", "WRENN_PROXY_DOMAIN")
GROUP = Group("Connection", sort_key=100)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Connection:
    """Options that every command has."""

    base_url: Annotated[str | None, Parameter(group=GROUP)] = None
    """Where the platform is (WRENN_BASE_URL)."""
    env_file: Annotated[Path | None, Parameter(group=GROUP)] = None
    """File with WRENN_BASE_URL and WRENN_API_KEY, for what the environment does not set; `wrenn up` writes one to
    /var/lib/wrenn/wrenn.env, which is the default."""

    def client(self) -> Client:
        """:raises ConfigError: no API key to be found"""
        environ = environment(os.environ, base_url=self.base_url, env_file=self.env_file)
        return Client(
            base_url=self.base_url or environ.get("WRENN_BASE_URL"),
            api_key=environ.get("WRENN_API_KEY"),
            proxy_domain=environ.get("WRENN_PROXY_DOMAIN"),
        )


def environment(environ: Mapping[str, str], *, base_url: str | None, env_file: Path | None) -> dict[str, str]:
    """The three variables that count, from the environment and the file.

    The file is left out when it belongs to another platform than the one asked for: a key must not be sent to a
    server that it is not meant for.

    :raises ConfigError: a file that was named cannot be read
    """
    found = {name: environ[name] for name in NAMES if environ.get(name)}
    path = env_file or Path(environ.get("WRENN_DATA_DIR") or "/var/lib/wrenn") / "wrenn.env"
    try:
        filed = parse(path.read_text())
    except OSError as exc:
        if env_file is not None:
            raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
        if isinstance(exc, PermissionError) and "WRENN_API_KEY" not in found:
            raise ConfigError(
                f"no API key, and {path} may not be read", hint="run as root, or set WRENN_API_KEY"
            ) from exc
        return found
    wanted = base_url or found.get("WRENN_BASE_URL")
    if wanted is not None and wanted.rstrip("/") != filed.get("WRENN_BASE_URL", "").rstrip("/"):
        return found
    return {**filed, **found}


def parse(text: str) -> dict[str, str]:
    """`NAME=value` lines; others are left out."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs if name.strip() in NAMES}
