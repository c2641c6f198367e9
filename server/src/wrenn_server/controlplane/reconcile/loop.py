"""How a reconciler runs: again and again, by its timer and whenever somebody wakes it. It takes no input: what must be
done is in the database, so a wake-up that is lost only costs time."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from wrenn_server.model.errors import WrennError

log = structlog.get_logger()


async def forever(
    name: str,
    converge: Callable[[], Awaitable[object]],
    *,
    interval: float,
    wake: asyncio.Event | None = None,
) -> None:
    """
    :param interval: seconds between two rounds when nobody wakes it
    """
    while True:
        if wake is not None:
            wake.clear()
        try:
            await converge()
        except WrennError as error:
            log.warning("reconciler must wait", action="reconcile_deferred", name=name, error=error.message)
        except Exception as error:
            log.error("reconciler failed", action="reconcile_failed", name=name, exc_info=error)
        await _pause(interval, wake)


async def _pause(interval: float, wake: asyncio.Event | None) -> None:
    if wake is None:
        await asyncio.sleep(interval)
        return
    try:
        async with asyncio.timeout(interval):
            await wake.wait()
    except TimeoutError:
        pass
