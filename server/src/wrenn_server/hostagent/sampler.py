"""What the sandboxes of this host use: asked of each running guest every few seconds, told to the control plane in
batches.

Each running sandbox has a task of its own with its own moments, so they spread by themselves, and a guest that does not
answer delays nobody. While the control plane is away the newest samples are kept and the oldest give way.
"""

import asyncio
import contextlib
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

import msgspec
import structlog

from wrenn_server.hostagent.control_plane import ControlPlane
from wrenn_server.hostagent.credentials import Credentials
from wrenn_server.hostagent.guest.client import GuestFailed
from wrenn_server.hostagent.guest.meter import Meter, Metrics, bounded
from wrenn_server.hostagent.network.base import SlotPool
from wrenn_server.hostagent.sandbox.clock import Clock
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.sandbox.registry import Reach
from wrenn_server.linux import interfaces
from wrenn_server.model.errors import InvalidRequest, TooLarge, WrennError
from wrenn_server.model.sandbox import State
from wrenn_server.wire import agent as wire
from wrenn_server.wire import envd

INTERVAL = 5.0
"""Seconds between two samples of a sandbox."""
SEND_INTERVAL = 10.0
"""Seconds between two batches. With 1,000 hosts of 75 running sandboxes, batches every 5 s took a control plane 0.58 cores
and 15 % came too late; every 10 s 0.51 and none did (`bench/scale.py`)."""
SETTLING = 0.5
"""Seconds from a start to the first question, whose answer only sets the beginning of the first sample's time: guests
count their processor's time since the question before, and a restored one would begin with its template's boot."""
LONGEST_PAUSE = 60.0
"""Seconds between two questions to a guest that does not answer; doubling from the interval."""
AT_ONCE, TURN = 4, 0.25
"""Questions at one time, and the seconds after which one that is not answered yet lets the next one go ahead."""
KEPT = 50_000
"""Samples of all sandboxes, some 15 MB: an hour of 70 sandboxes."""
BATCH = 2_000
SEND_TIMEOUT = 10.0
LONGEST_RETRY = 30.0

log = structlog.get_logger()


class Samples:
    """Those that the control plane does not have yet, in the order in which they were taken, which is that of their
    numbers.

    :ivar first: number of the oldest one
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[wire.Sample] = deque(maxlen=kept)
        self._epoch = time.time()
        self.first = 1

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, sample: wire.Sample) -> None:
        """In the place of the oldest one when there is no more room."""
        if len(self._ring) == self._ring.maxlen:
            self.first += 1
        self._ring.append(sample)

    def batch(self) -> wire.Samples:
        """The oldest ones."""
        return wire.Samples(samples=list(islice(self._ring, BATCH)), epoch=self._epoch, first=self.first)

    def done(self, batch: wire.Samples) -> None:
        """Forgets a batch, of which some may have given way meanwhile."""
        while self._ring and self.first < batch.first + len(batch.samples):
            self._ring.popleft()
            self.first += 1


class Sampler:
    """An async context manager. `changed` is to be called after every change of a sandbox."""

    def __init__(
        self, reach: Callable[[str], Reach], slots: SlotPool, clock: Clock, samples: Samples
    ) -> None:
        """:param reach: as `Registry.reach`"""
        self._reach = reach
        self._slots = slots
        self._clock = clock
        self._samples = samples
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watches = list(self._watches.values())
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    def changed(self, entry: Entry) -> None:
        watch = self._watches.get(entry.id)
        if entry.state is not State.RUNNING:
            if watch is not None:
                watch.cancel()
        elif watch is None or watch.cancelling():
            watch = asyncio.create_task(self._watch(entry), name=f"sample {entry.id}")
            self._watches[entry.id] = watch
            watch.add_done_callback(lambda done: self._forget(entry.id, done))

    def _forget(self, id: str, watch: "asyncio.Task[None]") -> None:
        if self._watches.get(id) is watch:
            del self._watches[id]
        if not watch.cancelled() and (error := watch.exception()) is not None:
            log.error("a sandbox is not sampled any more", action="sampler", sandbox_id=id, exc_info=error)

    async def _watch(self, entry: Entry) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + INTERVAL
        await asyncio.sleep(SETTLING)
        reach = self._reach(entry.id)

        def connect(timeout: float) -> "asyncio.Future[socket.socket]":
            return asyncio.ensure_future(self._slots.connect(reach.slot, envd.PORT, timeout))

        since = _Since(loop.time(), interfaces.received_bytes(reach.slot.veth))
        async with Meter(connect, reach.access_token) as meter:
            with contextlib.suppress(GuestFailed):
                await self._turn(meter)
            pause = INTERVAL
            while True:
                await asyncio.sleep(due - loop.time())
                taken = await self._sample(entry, meter, since, reach.slot.veth)
                pause = INTERVAL if taken else min(2 * pause, LONGEST_PAUSE)
                due = max(due + pause, loop.time())

    async def _sample(self, entry: Entry, meter: Meter, since: "_Since", veth: str) -> bool:
        try:
            metrics = await self._turn(meter)
        except GuestFailed as error:
            log.debug(
                "a guest gives no sample", action="sample_failed", sandbox_id=entry.id, error=str(error)
            )
            return False
        sample = bounded(
            metrics,
            sandbox_id=entry.id,
            at=self._clock.now(),
            vcpus=entry.vcpus,
            memory_mb=entry.memory_mb,
            disk_mb=entry.disk_mb,
        )
        seconds, sent = since.until(asyncio.get_running_loop().time(), interfaces.received_bytes(veth))
        self._samples.add(msgspec.structs.replace(sample, seconds=seconds, egress_bytes=sent))
        return True

    async def _turn(self, meter: Meter) -> Metrics:
        """Asks when it is its turn. A guest that takes long gives up the turn, not the answer.

        :raises GuestFailed:"""
        async with self._turns:
            asking = asyncio.create_task(meter.read(), name="ask for metrics")
            try:
                await asyncio.wait({asking}, timeout=TURN)
            except asyncio.CancelledError:
                asking.cancel()
                raise
        return await asking


@dataclass(slots=True)
class _Since:
    """When the sample before was taken, and what had been sent by then."""

    at: float
    sent: int

    def until(self, now: float, sent: int) -> tuple[float, int]:
        """Seconds and bytes since then; from now on it counts from here."""
        seconds, more = min(now - self.at, wire.SAMPLE_SECONDS_MAX), max(0, sent - self.sent)
        self.at, self.sent = now, sent
        return seconds, more


class Sender:
    """`run` sends what there is every few seconds, until it is cancelled."""

    def __init__(self, control_plane: ControlPlane, credentials: Credentials, samples: Samples) -> None:
        self._control_plane = control_plane
        self._credentials = credentials
        self._samples = samples

    async def run(self) -> None:
        pause = SEND_INTERVAL
        while True:
            await asyncio.sleep(pause)
            sent = await self._send()
            pause = SEND_INTERVAL if sent else min(2 * pause, LONGEST_RETRY) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    async def _send(self) -> bool:
        """Whether the control plane has all of them now, or will never take them."""
        while (batch := self._samples.batch()).samples:
            path = f"/v1/hosts/{self._credentials.host_id}/samples"
            try:
                await self._control_plane.post(
                    path, batch, timeout=SEND_TIMEOUT, token=self._credentials.token
                )
            except (InvalidRequest, TooLarge) as error:
                log.warning(
                    "samples refused", action="samples_refused", code=error.code, detail=error.message
                )
            except (WrennError, OSError, TimeoutError) as error:
                log.warning("samples wait", action="samples_wait", error=str(error) or "no answer in time")
                return False
            self._samples.done(batch)
        return True
