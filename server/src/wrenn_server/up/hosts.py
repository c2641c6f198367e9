"""The hosts of a platform, for its administrator: `wrenn host`."""

import asyncio
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from wrenn_server.up.administrator import Refused, ask, ask_all, signed_in
from wrenn_server.up.settings import Settings

LOOK_SEC = 1.0
_LISTS = ("tags", "templates")


async def act(
    settings: Settings, console: Console, action: str, host_id: str | None, *, wait: bool, force: bool
) -> None:
    """:raises Refused:"""
    if action != "list" and host_id is None:
        raise Refused(f"which host? wrenn host {action} HOST; `wrenn host list` has them")
    async with signed_in(settings) as client:
        if action == "list":
            _show(console, await ask_all(client, "/v1/hosts"))
            return
        if action == "show":
            _details(console, await ask(client, "GET", f"/v1/hosts/{host_id}"))
            return
        if action == "rm":
            await _remove(client, console, f"/v1/hosts/{host_id}", force=force)
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
    for heading in ("host", "type", "status", "address", "zone", "tags", "vmm", "sandboxes"):
        table.add_column(heading)
    for host in hosts:
        status = f"{host['status']}, draining" if host["draining"] else host["status"]
        table.add_row(
            host["id"],
            host["type"],
            status,
            host.get("address", ""),
            host.get("availability_zone", ""),
            ", ".join(host["tags"]),
            host["vmm"],
            str(host["sandboxes"]),
        )
    console.print(table)


def _details(console: Console, host: Any) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in host.items():
        table.add_row(name, ", ".join(map(str, value)) if name in _LISTS else str(value))
    console.print(table)


async def _remove(client: httpx2.AsyncClient, console: Console, path: str, *, force: bool) -> None:
    """:raises Refused: something is on it, and not `force`"""
    held = await ask(client, "GET", path + "/delete-preview")
    for what, ids in (
        ("sandboxes are lost", held["sandbox_ids"]),
        ("paused sandboxes resume elsewhere", held["kept_sandbox_ids"]),
        ("snapshots are lost", held["snapshot_ids"]),
    ):
        if ids:
            console.print(f"{len(ids)} {what}: {' '.join(ids)}", highlight=False)
    await ask(client, "DELETE", path, params={"force": force})
    console.print(
        f"The record of {held['host']['id']} is deleted; its agent can be stopped.", highlight=False
    )
