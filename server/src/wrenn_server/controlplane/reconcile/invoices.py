"""Months that are over are charged, and get their invoices."""

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import invoices

INTERVAL = 600.0


async def converge(cp: ControlPlane) -> None:
    await invoices.issue_all(cp)
