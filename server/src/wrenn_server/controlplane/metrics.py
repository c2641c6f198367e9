"""What Prometheus may know of the control plane, at `/metrics`.

Of several workers any may be asked, and it answers for all of them: each serves its numbers to the others on a unix
socket, and samples get a label `worker`.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector

from wrenn_server.controlplane.workers import Place
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Answer, Exchange, Peer, Tunnel, Upstream
from wrenn_server.wire.head import Head
from wrenn_server.wire.http1 import Connection, Timeouts
from wrenn_server.wire.stream import connect_unix

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


_MOST = 16 * 1024 * 1024  # bytes of one worker's numbers
_TIMEOUT = 2.0  # seconds for another worker to give its numbers

log = structlog.get_logger()


class Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """`prometheus_client.Metric` as it crosses a socket."""

    name: str
    documentation: str
    type: str
    samples: list[Sample]


class Metrics:
    def __init__(self) -> None:
        self.place: Place | None = None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "wrenn_edge_requests_total",
            "Finished requests to the public port",
            ["to", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "wrenn_edge_request_seconds",
            "From a request's head to the end of its answer",
            ["to"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._bytes = Counter(
            "wrenn_edge_bytes_total", "Bytes of bodies", ["to", "direction"], registry=self.registry
        )

    async def text(self) -> bytes:
        """In Prometheus's text format, of all workers."""
        if self.place is None:
            return generate_latest(self.registry)
        own = {self.place.index: families(self.registry)}
        others = [index for index in self.place.indices if index != self.place.index]
        found = await asyncio.gather(*(_of_worker(self.place.socket("metrics", index)) for index in others))
        merged = CollectorRegistry(auto_describe=False)
        merged.register(_Merged(own | dict(zip(others, found, strict=True))))
        return generate_latest(merged)

    def observe(self, exchange: Exchange) -> None:
        to = _kind(exchange.to)
        # By class of status, so that no client can make series without end.
        self._requests.labels(to, f"{exchange.status // 100}xx" if exchange.status else "aborted").inc()
        self._seconds.labels(to).observe(exchange.seconds)
        self._bytes.labels(to, "in").inc(exchange.received)
        self._bytes.labels(to, "out").inc(exchange.sent)


def _kind(to: Upstream | Answer | Tunnel) -> str:
    match to:
        case Upstream(group=None):
            return "api"
        case Upstream():
            return "sandbox"
        case _:
            return "edge"


@asynccontextmanager
async def shared(metrics: Metrics, place: Place) -> AsyncGenerator[None, None]:
    """While the context lasts, the other workers can ask for these numbers, and are asked for theirs."""

    async def answer(head: Head, peer: Peer) -> Answer:
        return Answer(status=200, body=msgspec.msgpack.encode(families(metrics.registry)))

    path = place.socket("metrics", place.index)
    path.unlink(missing_ok=True)  # of the worker that was here before and died
    async with Listener(str(path), answer):
        metrics.place = place
        yield


def families(registry: CollectorRegistry) -> list[Family]:
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


async def _of_worker(path: Path) -> list[Family]:
    """Nothing of one that is starting or gone: the numbers of the others are worth having."""
    try:
        async with (
            asyncio.timeout(_TIMEOUT),
            Connection(await connect_unix(str(path)), timeouts=Timeouts(head=None)) as connection,
        ):
            response = await connection.request("GET", "/")
            return msgspec.msgpack.decode(await response.read(limit=_MOST), type=list[Family])
    except (OSError, TimeoutError) as error:
        log.warning("a worker gave no metrics", action="metrics_missing", path=str(path), error=str(error))
        return []


class _Merged(Collector):
    def __init__(self, workers: dict[int, list[Family]]) -> None:
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for index, found in self._workers.items():
            for family in found:
                metric = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    metric.add_sample(sample.name, {**sample.labels, "worker": str(index)}, sample.value)
        return merged.values()
