"""The hosts of a platform, for its administrator: `wrenn host`."""

import asyncio
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from wrenn_server.up.administrator import Refused, ask, signed_in
from wrenn_server.up.settings import Settings

LOOK_SEC = 1.0


async def act(settings: Settings, console: Console, action: str, host_id: str | None, *, wait: bool) -> None:
    """:raises Refused:"""
    if action != "list" and host_id is None:
        raise Refused(f"which host? wrenn host {action} HOST; `wrenn host list` has them")
    async with signed_in(settings) as client:
        if action == "list":
            _show(console, await ask(client, "GET", "/v1/hosts"))
            return
        method = "POST" if action == "drain" else "DELETE"
        host = await ask(client, method, f"/v1/hosts/{host_id}/drain")
        if action == "drain" and wait:
            await _until_empty(client, console, host)
        else:
            _show(console, [host])


async def _until_empty(client: httpx2.AsyncClient, console: Console, host: Any) -> None:
    with console.status("") as status:
        while host["sandboxes"] and host["draining"]:
            status.update(f"{host['sandboxes']} sandboxes are still on {host['id']}")
            await asyncio.sleep(LOOK_SEC)
            host = await ask(client, "GET", f"/v1/hosts/{host['id']}")
    if host["draining"]:
        console.print(
            f"{host['id']} is empty: its agent can be stopped, and its record deleted.", highlight=False
        )
    else:
        console.print(f"{host['id']} takes part again; somebody ended the drain.", highlight=False)


def _show(console: Console, hosts: list[Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("host", "status", "address", "vmm", "sandboxes"):
        table.add_column(heading)
    for host in hosts:
        status = f"{host['status']}, draining" if host["draining"] else host["status"]
        table.add_row(host["id"], status, host.get("address", ""), host["vmm"], str(host["sandboxes"]))
    console.print(table)
