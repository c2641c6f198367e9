"""`wrenn.env`: what a program needs to talk to this installation, as `NAME=value` lines, mode 0600."""

import os
from pathlib import Path

NAMES = (
    "WRENN_BASE_URL",
    "WRENN_API_KEY",
    "WRENN_PROXY_DOMAIN",
    "WRENN_ADMIN_EMAIL",
    "WRENN_ADMIN_PASSWORD",
    "E2B_DOMAIN",
    "E2B_API_URL",
    "E2B_SANDBOX_URL",
    "E2B_API_KEY",
)


def compose(
    *, base_url: str, proxy_domain: str, api_key: str, admin_email: str, admin_password: str
) -> dict[str, str]:
    """The variables; E2B's SDKs want the same key with their own prefix. They use the two URLs on this machine; elsewhere
    E2B_DOMAIN and the key are enough where *.E2B_DOMAIN leads to the TLS port."""
    return {
        "WRENN_BASE_URL": base_url,
        "WRENN_API_KEY": api_key,
        "WRENN_PROXY_DOMAIN": proxy_domain,
        "WRENN_ADMIN_EMAIL": admin_email,
        "WRENN_ADMIN_PASSWORD": admin_password,
        "E2B_DOMAIN": proxy_domain,
        "E2B_API_URL": base_url,
        "E2B_SANDBOX_URL": base_url,
        "E2B_API_KEY": "e2b_" + api_key.removeprefix("wrn_"),
    }


def read(path: Path) -> dict[str, str]:
    """The variables of the file; empty when there is none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def write(path: Path, variables: dict[str, str]) -> None:
    """Replaces the file in one step; never readable by others, not even for a moment."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{name}={value}\n" for name, value in variables.items()))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
