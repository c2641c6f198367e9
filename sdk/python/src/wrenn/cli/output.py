"""How the command line writes: tables for people, JSON for programs, exit codes for scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.table import Table

from wrenn.errors import (
    ConfigError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RequestTimeoutError,
    ServerUnreachableError,
    UnauthorizedError,
    UnavailableError,
    WrennError,
)
from wrenn.models import SandboxInfo

EXIT_CODES: dict[type[WrennError], int] = {
    NotFoundError: 3,
    ConfigError: 4,
    UnauthorizedError: 4,
    ForbiddenError: 4,
    ServerUnreachableError: 5,
    UnavailableError: 5,
    RequestTimeoutError: 5,
    ConflictError: 6,
}
"""1 for every other error, 2 for a command line that is none."""
INTERRUPTED = 130


def exit_code(error: WrennError) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def write_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def write_error(error: WrennError) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[red]error:[/] ", end="")
    console.print(error.message, markup=False)
    if error.hint:
        console.print(f"  hint: {error.hint}", markup=False)
    if error.request_id:
        console.print(f"  request: {error.request_id}", markup=False, style="dim")


def write_table(sandboxes: Iterable[SandboxInfo], now: datetime | None = None) -> None:
    now = now or datetime.now(UTC)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ID", "STATUS", "TEMPLATE", "CPUS", "MEMORY", "AGE", "ENDS IN", "METADATA"):
        table.add_column(heading, no_wrap=True)
    for info in sandboxes:
        table.add_row(
            info.id,
            info.status,
            info.template,
            str(info.vcpus),
            f"{info.memory_mb} MiB",
            span((now - info.created_at).total_seconds()),
            "never" if info.expires_at is None else span((info.expires_at - now).total_seconds()),
            " ".join(f"{key}={value}" for key, value in sorted(info.metadata.items())),
        )
    # Into a pipe nothing is cut off, however long.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 10_000).print(table)


def write_details(info: SandboxInfo) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in msgspec.to_builtins(info).items():
        if value not in (None, "", {}) and name != "console":
            table.add_row(name, str(value))
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 10_000)
    console.print(table)
    if info.console:
        console.print("console:")
        console.print(printable(info.console))


def printable(text: str) -> str:
    """What a guest wrote, without the escapes that would drive the terminal that shows it."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def span(seconds: float) -> str:
    """
    >>> span(59), span(3599), span(7200), span(200_000), span(-3)
    ('59s', '59m', '2h', '2d', '0s')
    """
    seconds = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
