"""The audit log of a platform, for its administrator: `wrenn admin audit verify`."""

from rich.console import Console

from wrenn_server.up.administrator import ask, signed_in
from wrenn_server.up.settings import Settings

_TIMEOUT = 600.0
"""Seconds: every row is read."""


async def verify(settings: Settings, console: Console) -> bool:
    """False: something is not as it was written. :raises Refused:"""
    async with signed_in(settings, timeout=_TIMEOUT) as client:
        found = await ask(client, "GET", "/v1/admin/audit-logs/verification")
    for head in found["whole"]:
        console.print(
            f"whole   {head['chain']} {head['number']} {head['digest']}", highlight=False, soft_wrap=True
        )
    for broken in found["broken"]:
        console.print(
            f"[red]BROKEN[/]  {broken['chain']} {broken['number']} {broken['what']}", highlight=False
        )
    return not found["broken"]
