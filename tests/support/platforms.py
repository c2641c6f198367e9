"""A whole platform, started as a user starts it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.up import environment
from wrenn_server.up.demo import free_port
from wrenn_server.up.settings import Settings


@dataclass(frozen=True, slots=True)
class RunningPlatform:
    settings: Settings
    variables: dict[str, str]

    @property
    def base_url(self) -> str:
        return self.variables["WRENN_BASE_URL"]

    @property
    def api_key(self) -> str:
        return self.variables["WRENN_API_KEY"]


def wrenn(*words: str, settings: Settings, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line, as a user types it."""
    given = {
        "AGENT_NETWORK": settings.network,
        "AGENT_UID_BASE": settings.uid_base,
        "CP_PROXY_DOMAIN": settings.domain,
        "CP_TLS_CERT": settings.tls_cert,
        "CP_TLS_KEY": settings.tls_key,
        "CP_TLS_LISTEN_ADDR": settings.tls_listen,
    }
    environ = {**os.environ, **{name: str(value) for name, value in given.items() if value is not None}}
    completed = subprocess.run(
        [Path(sys.executable).with_name("wrenn"), *words, "--data-dir", settings.data_dir],
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check and completed.returncode != 0:
        logs = "\n".join(
            f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            for log in sorted(settings.logs_dir.glob("*.log"))
        )
        raise AssertionError(f"wrenn {' '.join(words)} failed:\n{completed.stdout}{completed.stderr}\n{logs}")
    return completed


def settings_for(directory: Path, *, network: str, uid_base: int) -> Settings:
    return Settings(
        data_dir=directory,
        listen=f"127.0.0.1:{free_port()}",
        agent_listen=f"127.0.0.1:{free_port()}",
        network=network,
        uid_base=uid_base,
    )


def up(settings: Settings) -> RunningPlatform:
    wrenn(
        "up",
        "--detach",
        "--listen",
        settings.listen,
        "--agent-listen",
        settings.agent_listen,
        settings=settings,
    )
    return RunningPlatform(settings, environment.read(settings.env_file))


def curl(*words: str) -> tuple[int, str]:
    """Status and body of a request made as a person makes it."""
    completed = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    body, _, status = completed.stdout.rpartition("\n")
    return int(status), body
