"""What `wrenn up` was asked for, and where things are on this machine."""

import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

DATA_DIR = Path("/var/lib/wrenn")
CACHE_DIR = Path("/var/cache/wrenn")
LISTEN = "127.0.0.1:8000"
AGENT_LISTEN = "127.0.0.1:50051"
ADMIN_EMAIL = "admin@wrenn.local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_dir: Path = DATA_DIR
    listen: str = LISTEN
    agent_listen: str = AGENT_LISTEN
    database_url: str | None = field(default=None, repr=False)
    """None: an embedded PostgreSQL in the data directory."""
    vmm: str = "auto"
    cache_dir: Path = CACHE_DIR
    """Built kernels and images, shared by all installations of this machine and kept by `--purge`."""
    domain: str | None = None
    """Wildcard domain of the sandboxes' ports, perhaps with a port; None: names under localhost, plain HTTP alone."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_listen: str | None = None
    network: str = "10.213.0.0/16"
    uid_base: int = 20000
    object_store: str | None = None
    """Where paused sandboxes and snapshots go for other hosts; None: they stay on this machine."""
    warm: int = 2
    """Restored VMs that wait for the next creates."""
    spares: int = 12
    """VMMs that wait for the next creates, forks and resumes."""

    @property
    def tag(self) -> str:
        """Marks every host object of this installation."""
        return hashlib.sha256(os.fspath(self.data_dir.absolute()).encode()).hexdigest()[:4]

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def env_file(self) -> Path:
        return self.data_dir / "wrenn.env"

    @property
    def base_url(self) -> str:
        host, _, port = self.listen.rpartition(":")
        return f"http://{host if host not in {'', '0.0.0.0'} else '127.0.0.1'}:{port}"

    @property
    def proxy_domain(self) -> str:
        """`{port}-{id}.` is put before it; curl and browsers resolve every name under localhost to loopback."""
        return self.domain or f"localhost:{self.listen.rpartition(':')[2]}"


def from_environment(environment: dict[str, str], **given: object) -> Settings:
    """Settings from options that were given (not None) over environment variables over defaults."""
    values: dict[str, object] = {}
    if data_dir := environment.get("WRENN_DATA_DIR"):
        values["data_dir"] = Path(data_dir)
    if cache_dir := environment.get("WRENN_CACHE_DIR"):
        values["cache_dir"] = Path(cache_dir)
    for name, variable in {
        "database_url": "DATABASE_URL",
        "vmm": "AGENT_VMM",
        "network": "AGENT_NETWORK",
        "object_store": "AGENT_OBJECT_STORE",
        "domain": "CP_PROXY_DOMAIN",
        "tls_listen": "CP_TLS_LISTEN_ADDR",
    }.items():
        if value := environment.get(variable):
            values[name] = value
    for name, variable in {"tls_cert": "CP_TLS_CERT", "tls_key": "CP_TLS_KEY"}.items():
        if value := environment.get(variable):
            values[name] = Path(value).absolute()
    for name, variable in {
        "uid_base": "AGENT_UID_BASE",
        "warm": "AGENT_WARM",
        "spares": "AGENT_SPARES",
    }.items():
        if value := environment.get(variable):
            values[name] = int(value)
    values.update({name: value for name, value in given.items() if value is not None})
    return Settings(**values)  # pyright: ignore[reportArgumentType] - names and types are those of Settings


_PATHS = ("data_dir", "cache_dir", "tls_cert", "tls_key")


def parse(given: dict[str, str]) -> Settings:
    """What `as_json` made of settings."""
    return from_environment({}, **{k: Path(v) if k in _PATHS else v for k, v in given.items()})


def as_json(settings: Settings) -> dict[str, object]:
    return {
        name: os.fspath(value) if isinstance(value, Path) else value
        for name, value in asdict(settings).items()
        if value is not None
    }
