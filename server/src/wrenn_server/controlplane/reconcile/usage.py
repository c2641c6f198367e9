"""What is old of usage becomes less. One control plane at a time does it, a piece at a time, so that nothing waits for
it."""

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.services import usage

INTERVAL = 3600.0


async def converge(cp: ControlPlane) -> None:
    await usage.roll_up(cp)
