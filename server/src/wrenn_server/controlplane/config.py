"""Settings of the control plane, from the environment and from `.env` in the working directory."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parseaddr
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from wrenn_server.controlplane.keys import CERTIFICATE_DAYS
from wrenn_server.controlplane.smtp import Smtp
from wrenn_server.db.sandboxes import Room
from wrenn_server.linux.env_file import ConfigError as ConfigError
from wrenn_server.linux.env_file import read_env_file
from wrenn_server.model.address import Address

VERSION = version("wrenn-server")
AGENT = Address("localhost", 50051)
MOST_WORKERS = 64
GITHUB_URL = "https://github.com"
GITHUB_API_URL = "https://api.github.com"
TLS_LISTEN = "0.0.0.0:8443"
_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,200}[a-z0-9])?(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
ROOM = Room(cpus=16.0, memory=2.0, disk=20.0)


class Networks:
    """`10.0.0.0/8, 192.168.1.7`: contains the text of an address, or not.

    :raises ValueError:
    """

    def __init__(self, text: str) -> None:
        self._networks = [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]

    def __contains__(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


@dataclass(frozen=True, slots=True)
class Tls:
    """The public port that speaks TLS, beside the plain one. PEM files: the certificate with its chain, and its key
    without a password."""

    certificate: Path
    key: Path
    listen: str = TLS_LISTEN
    """CP_TLS_LISTEN_ADDR, HOST:PORT"""


@dataclass(frozen=True, slots=True)
class GitHub:
    """An OAuth app of GitHub, or of a GitHub Enterprise server."""

    client_id: str
    client_secret: str = field(repr=False)
    url: str = GITHUB_URL
    """CP_GITHUB_URL"""
    api_url: str = GITHUB_API_URL
    """CP_GITHUB_API_URL"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    database_url: str | None = field(default=None, repr=False)
    """DATABASE_URL; None: an embedded PostgreSQL in the data directory"""
    listen: str = "0.0.0.0:8000"
    """CP_LISTEN_ADDR, HOST:PORT"""
    agent: Address = AGENT
    """CP_HOST_AGENT_ADDR: where to reach an agent that registered without --address"""
    certificate_days: int = CERTIFICATE_DAYS
    """CP_HOST_CERTIFICATE_DAYS: how long certificates of hosts are valid; agents renew them when a third of that is left"""
    data_dir: Path = Path("/var/lib/wrenn")
    """WRENN_DATA_DIR"""
    room: Room = ROOM
    """CP_CPU_OVERCOMMIT, CP_MEMORY_OVERCOMMIT, CP_DISK_OVERCOMMIT. Disk is high because overlays are sparse; memory is
    above 1 because sandboxes of a template share its pages and touch few of their own."""

    proxy_domain: str | None = None
    """CP_PROXY_DOMAIN: where `{port}-{id}.` lead to the ports of sandboxes, perhaps with a port; told in E2B's answers"""
    workers: int = 1
    """CP_WORKERS: processes that share the port"""
    tls: Tls | None = None
    """CP_TLS_CERT and CP_TLS_KEY; None: plain HTTP alone"""
    trusted_proxies: Networks = field(default_factory=lambda: Networks(""))
    """CP_TRUSTED_PROXIES: whose X-Forwarded-* are believed"""

    webhooks_private: bool = False
    """CP_WEBHOOKS_PRIVATE: webhooks and channels may lead to private addresses, too"""
    public_url: str = "http://localhost:8000"
    """CP_PUBLIC_URL: what links in mails begin with"""
    signup: bool = True
    """CP_SIGNUP: whether strangers may sign up"""
    smtp: Smtp | None = None
    """CP_SMTP_URL; None: mails go into the log"""
    mail_from: str = "Wrenn Sandbox <wrenn@localhost>"
    """CP_MAIL_FROM"""
    github: GitHub | None = None
    """CP_GITHUB_CLIENT_ID and CP_GITHUB_CLIENT_SECRET; None: no log-in with GitHub"""

    @property
    def secure_cookies(self) -> bool:
        return self.public_url.startswith("https:")

    @property
    def postgres_dir(self) -> Path:
        return self.data_dir / "postgres"


def load(environ: Mapping[str, str], env_file: Path | None = Path(".env")) -> Config:
    """Real environment variables win over the file.

    :raises ConfigError:
    """
    values = dict(environ)
    if env_file is not None and env_file.is_file():
        values = {**read_env_file(env_file), **values}
    problems: list[str] = []
    given: dict[str, object] = {}
    for name, attribute, parse in (
        ("DATABASE_URL", "database_url", _database_url),
        ("CP_LISTEN_ADDR", "listen", _listen),
        ("CP_HOST_AGENT_ADDR", "agent", Address.parse),
        ("CP_HOST_CERTIFICATE_DAYS", "certificate_days", _days),
        ("WRENN_DATA_DIR", "data_dir", _path),
        ("CP_PROXY_DOMAIN", "proxy_domain", _domain),
        ("CP_WORKERS", "workers", _workers),
        ("CP_WEBHOOKS_PRIVATE", "webhooks_private", _yes_or_no),
        ("CP_TRUSTED_PROXIES", "trusted_proxies", Networks),
        ("CP_PUBLIC_URL", "public_url", _url),
        ("CP_SIGNUP", "signup", _yes_or_no),
        ("CP_SMTP_URL", "smtp", Smtp.parse),
        ("CP_MAIL_FROM", "mail_from", _mail_from),
    ):
        if text := values.get(name):
            try:
                given[attribute] = parse(text)
            except ValueError as error:
                shown = "" if name in {"DATABASE_URL", "CP_SMTP_URL"} else f"={text!r}"
                problems.append(f"{name}{shown}: {error}")
    certificate, key = values.get("CP_TLS_CERT"), values.get("CP_TLS_KEY")
    if certificate and key:
        text = values.get("CP_TLS_LISTEN_ADDR") or TLS_LISTEN
        try:
            given["tls"] = Tls(_path(certificate), _path(key), _listen(text))
        except ValueError as error:
            problems.append(f"CP_TLS_LISTEN_ADDR={text!r}: {error}")
    elif certificate or key or values.get("CP_TLS_LISTEN_ADDR"):
        problems.append(
            "CP_TLS_CERT and CP_TLS_KEY: give both, or none of the CP_TLS_ settings for plain HTTP"
        )
    client_id, client_secret = values.get("CP_GITHUB_CLIENT_ID"), values.get("CP_GITHUB_CLIENT_SECRET")
    if client_id and client_secret:
        url = (values.get("CP_GITHUB_URL") or GITHUB_URL).rstrip("/")
        # GitHub Enterprise has its API below its own address.
        api_url = values.get("CP_GITHUB_API_URL") or (
            GITHUB_API_URL if url == GITHUB_URL else f"{url}/api/v3"
        )
        given["github"] = GitHub(client_id, client_secret, url, api_url.rstrip("/"))
    elif client_id or client_secret:
        problems.append("CP_GITHUB_CLIENT_ID and CP_GITHUB_CLIENT_SECRET: give both, or none")
    room = ROOM
    factors = {"cpus": room.cpus, "memory": room.memory, "disk": room.disk}
    for name, attribute in (
        ("CP_CPU_OVERCOMMIT", "cpus"),
        ("CP_MEMORY_OVERCOMMIT", "memory"),
        ("CP_DISK_OVERCOMMIT", "disk"),
    ):
        if text := values.get(name):
            try:
                factors[attribute] = _factor(text)
            except ValueError as error:
                problems.append(f"{name}={text!r}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return Config(**given, room=Room(**factors))  # pyright: ignore[reportArgumentType] - each value comes from its parser


def _database_url(text: str) -> str:
    if urlsplit(text).scheme not in {"postgres", "postgresql"}:
        raise ValueError("expected postgres://user:password@host:port/database")
    return text


def _listen(text: str) -> str:
    address = Address.parse_listen(text)
    return str(address if address.host else Address("0.0.0.0", address.port))


def _path(text: str) -> Path:
    return Path(text).absolute()


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError("expected a domain, perhaps with :PORT")
    return text.lower()


def _url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
        raise ValueError("expected http://HOST or https://HOST, perhaps with a port and a path")
    return text.rstrip("/")


def _yes_or_no(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("expected true or false")
    return text == "true"


def _mail_from(text: str) -> str:
    if "@" not in parseaddr(text)[1]:
        raise ValueError("expected an e-mail address, perhaps with a name before it: Name <name@example.com>")
    return text


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_WORKERS:
        raise ValueError(f"expected a number from 1 to {MOST_WORKERS}")
    return int(text)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 3650:
        raise ValueError("expected a number from 1 to 3650")
    return int(text)


def _factor(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 1000:
        raise ValueError("expected a number from 0.1 to 1000")
    return value
