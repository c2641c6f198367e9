"""Who delivers: any control plane takes what is due, each delivery for itself, so that a slow endpoint holds nobody up. What
somebody who died had taken is due again when its lease has run out."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from wrenn_server.controlplane.context import ControlPlane
from wrenn_server.controlplane.reconcile import loop
from wrenn_server.controlplane.services.deliveries import Body, deliver
from wrenn_server.db import deliveries
from wrenn_server.db.deliveries import DeliveryRow
from wrenn_server.model.errors import WrennError

INTERVAL = 30.0
"""Seconds, should a NOTIFY have been missed."""
AT_ONCE = 64
PER_CHANNEL = 4

log = structlog.get_logger()


class Courier:
    def __init__(self, cp: ControlPlane, body: Body) -> None:
        self._cp = cp
        self._body = body
        self._busy: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def converge(self) -> None:
        """Takes what is due, as much as there is room for, and wakes again when the next is."""
        while free := AT_ONCE - len(self._tasks):
            full = [id for id, count in self._busy.items() if count >= PER_CHANNEL]
            claimed = await deliveries.claim(self._cp.db, free, per_channel=PER_CHANNEL, except_channels=full)
            if not claimed:
                break
            for delivery in claimed:
                self._begin(delivery)
        else:
            return  # the end of each wakes us
        due = await deliveries.due_in(self._cp.db, except_channels=full)
        if due is not None and due < INTERVAL:
            self._wake_in(max(0.0, due))  # it may have become due since we looked for what is

    async def close(self) -> None:
        """What is being tried is tried to its end, which is near."""
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _wake_in(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, self._cp.feed.deliveries.set)

    def _begin(self, delivery: DeliveryRow) -> None:
        self._busy[delivery.channel_id] += 1
        task = asyncio.create_task(self._deliver(delivery), name=f"deliver {delivery.id}")
        self._tasks.add(task)

        def done(_: object) -> None:
            self._tasks.discard(task)
            self._busy[delivery.channel_id] -= 1
            if not self._busy[delivery.channel_id]:
                del self._busy[delivery.channel_id]
            self._cp.feed.deliveries.set()  # there is room

        task.add_done_callback(done)

    async def _deliver(self, delivery: DeliveryRow) -> None:
        try:
            await deliver(self._cp, delivery, self._body)
        except WrennError as error:  # its lease runs out, and it comes again
            log.warning(
                "delivery must wait", action="delivery_deferred", delivery_id=delivery.id, error=error.message
            )
        except Exception as error:
            log.error("delivery failed", action="delivery_broken", delivery_id=delivery.id, exc_info=error)


@asynccontextmanager
async def delivering(cp: ControlPlane, body: Body) -> AsyncGenerator[None, None]:
    """Deliveries go out while the context lasts."""
    courier = Courier(cp, body)
    task = asyncio.create_task(
        loop.forever("webhooks", courier.converge, interval=INTERVAL, wake=cp.feed.deliveries),
        name="reconcile webhooks",
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await courier.close()
