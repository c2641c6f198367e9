"""The hosts of a platform, for its administrator: `wrenn host`."""

import asyncio
import os
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from wrenn_server.up import environment
from wrenn_server.up.settings import Settings

LOOK_SEC = 1.0
_TIMEOUT = 30.0


class Refused(Exception):
    """The message says what the platform answered, or what is missing."""


async def act(settings: Settings, console: Console, action: str, host_id: str | None, *, wait: bool) -> None:
    """:raises Refused:"""
    if action != "list" and host_id is None:
        raise Refused(f"which host? wrenn host {action} HOST; `wrenn host list` has them")
    known = {**environment.read(settings.env_file), **os.environ}
    missing = [name for name in ("WRENN_ADMIN_EMAIL", "WRENN_ADMIN_PASSWORD") if not known.get(name)]
    if missing:
        raise Refused(f"{' and '.join(missing)} not set, and not in {settings.env_file}")
    url = known.get("WRENN_BASE_URL") or settings.base_url
    async with httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
        who = {"email": known["WRENN_ADMIN_EMAIL"], "password": known["WRENN_ADMIN_PASSWORD"]}
        token = (await _ask(client, "POST", "/v1/auth/login", json=who))["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        if action == "list":
            _show(console, await _ask(client, "GET", "/v1/hosts"))
            return
        method = "POST" if action == "drain" else "DELETE"
        host = await _ask(client, method, f"/v1/hosts/{host_id}/drain")
        if action == "drain" and wait:
            await _until_empty(client, console, host)
        else:
            _show(console, [host])


async def _until_empty(client: httpx2.AsyncClient, console: Console, host: Any) -> None:
    with console.status("") as status:
        while host["sandboxes"] and host["draining"]:
            status.update(f"{host['sandboxes']} sandboxes are still on {host['id']}")
            await asyncio.sleep(LOOK_SEC)
            host = await _ask(client, "GET", f"/v1/hosts/{host['id']}")
    if host["draining"]:
        console.print(
            f"{host['id']} is empty: its agent can be stopped, and its record deleted.", highlight=False
        )
    else:
        console.print(f"{host['id']} takes part again; somebody ended the drain.", highlight=False)


async def _ask(client: httpx2.AsyncClient, method: str, path: str, **options: Any) -> Any:
    try:
        answer = await client.request(method, path, **options)
    except httpx2.HTTPError as error:
        raise Refused(f"{client.base_url} cannot be reached: {error}") from error
    if answer.status_code >= 400:
        try:
            error = answer.json()["error"]
            raise Refused(": ".join(filter(None, (error["message"], error.get("hint")))))
        except (ValueError, KeyError, TypeError) as unclear:
            raise Refused(f"{method} {path} was answered with {answer.status_code}") from unclear
    return answer.json()


def _show(console: Console, hosts: list[Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("host", "status", "address", "vmm", "sandboxes"):
        table.add_column(heading)
    for host in hosts:
        status = f"{host['status']}, draining" if host["draining"] else host["status"]
        table.add_row(host["id"], status, host.get("address", ""), host["vmm"], str(host["sandboxes"]))
    console.print(table)
