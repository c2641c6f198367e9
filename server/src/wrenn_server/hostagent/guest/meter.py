"""What a guest says of its use of processor, memory and disk. It may lie: `bounded` keeps that within its shape."""

import asyncio
from types import TracebackType
from typing import Self

import msgspec

from wrenn_server.hostagent.guest.client import Connect, GuestFailed
from wrenn_server.wire import agent as wire
from wrenn_server.wire import http1, stream

TIMEOUT = 2.0
"""Seconds for an answer; an idle guest under software emulation needs 10 ms."""
ANSWER_LIMIT = 4096
MIB = 1 << 20


class Metrics(msgspec.Struct, kw_only=True):
    """envd's answer; sizes in bytes."""

    cpu_used_pct: float = 0.0
    """Of all processors together, since the question before."""
    mem_total: int = 0
    mem_used: int = 0
    mem_cache: int = 0
    disk_total: int = 0
    disk_used: int = 0


class Meter:
    """One guest's figures, over a connection that is kept: to make a new one is most of what a question costs. An async
    context manager."""

    def __init__(self, connect: Connect, token: str) -> None:
        """:param connect: to the guest's envd"""
        self._connect = connect
        self._headers = [("X-Access-Token", token)]
        self._connection: http1.Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def read(self) -> Metrics:
        """Asks once.

        :raises GuestFailed: no answer in time, or not one that envd gives"""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._ask()
        except (OSError, TimeoutError, http1.TooMuch, msgspec.MsgspecError) as error:
            await self._close()
            raise GuestFailed(f"asking envd for its metrics: {error or 'no answer'}") from error
        except BaseException:
            await self._close()
            raise

    async def _ask(self) -> Metrics:
        if self._connection is None or not self._connection.reusable:
            await self._close()
            connected = await stream.adopt(await self._connect(TIMEOUT))
            self._connection = http1.Connection(connected, host="envd")
        response = await self._connection.request("GET", "/metrics", headers=self._headers)
        body = await response.read(limit=ANSWER_LIMIT)
        if response.status != 200:
            raise GuestFailed(f"envd answered /metrics with {response.status}")
        return msgspec.json.decode(body, type=Metrics)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            async with connection:
                pass


def bounded(
    metrics: Metrics, *, sandbox_id: str, at: float, vcpus: int, memory_mb: int, disk_mb: int
) -> wire.Sample:
    """A sample that no guest of that shape can exceed."""
    mem_total = _within(metrics.mem_total, memory_mb * MIB)
    disk_total = _within(metrics.disk_total, disk_mb * MIB)
    return wire.Sample(
        sandbox_id=sandbox_id,
        at=at,
        cpu_count=vcpus,
        cpu_used_pct=min(max(metrics.cpu_used_pct, 0.0), 100.0),
        mem_used=_within(metrics.mem_used, mem_total),
        mem_total=mem_total,
        mem_cache=_within(metrics.mem_cache, mem_total),
        disk_used=_within(metrics.disk_used, disk_total),
        disk_total=disk_total,
    )


def _within(value: int, highest: int) -> int:
    return min(max(value, 0), highest)
