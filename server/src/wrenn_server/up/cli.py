"""`wrenn up`, `down`, `doctor`, `demo`: what the command line gains when the server is installed."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from wrenn_server.up import audit, doctor, hosts, start
from wrenn_server.up import down as taking_down
from wrenn_server.up.administrator import Refused
from wrenn_server.up.demo import show
from wrenn_server.up.settings import Settings, from_environment

console = Console()


def settings_of(data_dir: Path | None, **given: object) -> Settings:
    absolute = data_dir.absolute() if data_dir else None
    return from_environment(dict(os.environ), data_dir=absolute, **given)


def up(
    *,
    detach: bool = False,
    data_dir: Path | None = None,
    listen: str | None = None,
    agent_listen: str | None = None,
    domain: str | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_listen: str | None = None,
) -> None:
    """Start everything on this machine; a second time does nothing, quickly.

    :param detach: Return when everything serves, instead of staying in the foreground until Ctrl-C.
    :param data_dir: Where everything is kept (default /var/lib/wrenn, or WRENN_DATA_DIR).
    :param listen: The public address (default 127.0.0.1:8000).
    :param agent_listen: The host agent's address (default 127.0.0.1:50051).
    :param domain: Wildcard domain of the sandboxes' ports, e.g. sandboxes.example.com; *.DOMAIN must lead here.
    :param tls_cert: Certificate with its chain for *.DOMAIN, PEM; a port that speaks TLS is opened with it.
    :param tls_key: Its private key, PEM.
    :param tls_listen: The address of that port (default 0.0.0.0:8443).
    """
    settings = settings_of(
        data_dir,
        listen=listen,
        agent_listen=agent_listen,
        domain=domain,
        tls_cert=tls_cert.absolute() if tls_cert else None,
        tls_key=tls_key.absolute() if tls_key else None,
        tls_listen=tls_listen,
    )
    try:
        started = asyncio.run(start.start(settings, console))
    except start.CannotStart as error:
        console.print(f"[red]wrenn up:[/] {error}", highlight=False)
        sys.exit(1)
    console.print(
        f"Wrenn serves at [bold]{started.base_url}[/] on {started.vmm}. Credentials are in {settings.env_file}:\n"
        f"  set -a; . {settings.env_file}; set +a",
        highlight=False,
    )
    if started.emulated:
        console.print(
            "[yellow]KVM is not usable here: VMs run under software emulation, slowly and without an isolation "
            "promise between tenants.[/]"
        )
    if detach:
        return
    console.print("Ctrl-C stops it and pauses every sandbox.")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(start.wait_until_stopped(settings))
    asyncio.run(taking_down.stop(settings))


def down(*, purge: bool = False, data_dir: Path | None = None) -> None:
    """Stop everything: sandboxes are paused and stay. With --purge everything is removed.

    :param purge: Kill every sandbox and remove all that `wrenn up` made, the database included.
    :param data_dir: Where everything is kept (default /var/lib/wrenn, or WRENN_DATA_DIR).
    """
    settings = settings_of(data_dir)
    try:
        paused = asyncio.run(taking_down.stop(settings, kill=purge))
        if purge:
            asyncio.run(taking_down.purge(settings))
            console.print(f"Removed everything of {settings.data_dir}.", highlight=False)
        else:
            console.print("Stopped." if paused else "Nothing was running.")
    except taking_down.CannotStop as error:
        console.print(f"[red]wrenn down:[/] {error}", highlight=False)
        sys.exit(1)


def check(*, data_dir: Path | None = None) -> None:
    """Look at every prerequisite of this machine and say how to fix what is missing.

    :param data_dir: Where everything is kept (default /var/lib/wrenn, or WRENN_DATA_DIR).
    """
    settings = settings_of(data_dir)
    findings = asyncio.run(doctor.examine(settings, running=start.is_running(settings)))
    marks = {
        doctor.Verdict.OK: "[green]ok[/]",
        doctor.Verdict.WARN: "[yellow]warn[/]",
        doctor.Verdict.FAIL: "[red]fail[/]",
    }
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "fix"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(marks[finding.verdict], finding.check, finding.detail, finding.fix)
    console.print(table)
    if any(finding.verdict is doctor.Verdict.FAIL for finding in findings):
        sys.exit(1)


def demo() -> None:
    """Show the platform working on this machine, then remove every trace."""
    sys.exit(asyncio.run(show(console)))


def host(
    action: Literal["list", "show", "drain", "undrain", "rm"],
    host_id: str | None = None,
    /,
    *,
    wait: bool = True,
    force: bool = False,
    data_dir: Path | None = None,
) -> None:
    """List the hosts, or show one, empty it (drain), let it take part again (undrain), or remove its record (rm).

    As the administrator: WRENN_BASE_URL, WRENN_ADMIN_EMAIL and WRENN_ADMIN_PASSWORD, or the file that `wrenn up` wrote.

    :param action: list, show, drain, undrain or rm.
    :param host_id: Which one, for all but list.
    :param wait: Of drain: return when the host is empty.
    :param force: Of rm: although something is on it; what would be lost is printed without.
    :param data_dir: Where wrenn.env is (default /var/lib/wrenn, or WRENN_DATA_DIR).
    """
    try:
        asyncio.run(hosts.act(settings_of(data_dir), console, action, host_id, wait=wait, force=force))
    except Refused as error:
        console.print(f"[red]wrenn host:[/] {error}", highlight=False)
        sys.exit(1)


def admin(what: Literal["audit"], action: Literal["verify"], /, *, data_dir: Path | None = None) -> None:
    """Prove that every row of the audit log is as it was written (audit verify).

    As the administrator, like `wrenn host`. Prints each chain with its last number and hash: kept elsewhere, they prove
    later that nothing was cut off at the end.

    :param what: audit.
    :param action: verify.
    :param data_dir: Where wrenn.env is (default /var/lib/wrenn, or WRENN_DATA_DIR).
    """
    try:
        whole = asyncio.run(audit.verify(settings_of(data_dir), console))
    except Refused as error:
        console.print(f"[red]wrenn admin {what} {action}:[/] {error}", highlight=False)
        sys.exit(1)
    if not whole:
        sys.exit(1)


commands: list[tuple[str, Callable[..., None]]] = [
    ("up", up),
    ("down", down),
    ("doctor", check),
    ("demo", demo),
    ("host", host),
    ("admin", admin),
]
"""Name and function of each; the command line adds them as they are."""
