"""What Prometheus may know of the control plane, at `/metrics`.

Of several workers any may be asked, and it answers for all of them: each serves its numbers to the others on a unix
socket, and samples get a label `worker`.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Metric, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from wrenn_server.controlplane.workers import Place
from wrenn_server.edge.listener import Listener
from wrenn_server.edge.target import Answer, Exchange, Peer, Upstream
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
        self._requests = Requests()
        self.registry.register(self._requests)

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
        self._requests.observe(exchange)


class _Numbers(msgspec.Struct):
    """Of the requests to one kind of target."""

    by_status: Counter[int] = msgspec.field(default_factory=Counter[int])
    """By class, 2 for 2xx and so on, 0 for aborted: no client can make series without end."""
    by_seconds: list[int] = msgspec.field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    seconds: float = 0.0
    received: int = 0
    sent: int = 0


class Requests(Collector):
    """Counted without locks and labels, on the one thread that serves: this is done for each request."""

    def __init__(self) -> None:
        self._to = {"api": _Numbers(), "sandbox": _Numbers(), "edge": _Numbers()}

    def observe(self, exchange: Exchange) -> None:
        to = exchange.to
        kind = "edge" if not isinstance(to, Upstream) else "api" if to.group is None else "sandbox"
        numbers = self._to[kind]
        numbers.by_status[exchange.status // 100] += 1
        numbers.by_seconds[bisect_left(_BUCKETS, exchange.seconds)] += 1
        numbers.seconds += exchange.seconds
        numbers.received += exchange.received
        numbers.sent += exchange.sent

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "wrenn_edge_requests", "Finished requests to the public port", labels=["to", "status"]
        )
        seconds = HistogramMetricFamily(
            "wrenn_edge_request_seconds", "From a request's head to the end of its answer", labels=["to"]
        )
        passed = CounterMetricFamily("wrenn_edge_bytes", "Bytes of bodies", labels=["to", "direction"])
        limits = [*(str(limit) for limit in _BUCKETS), "+Inf"]
        for to, numbers in self._to.items():
            for status, count in sorted(numbers.by_status.items()):
                requests.add_metric([to, f"{status}xx" if status else "aborted"], count)
            seconds.add_metric(
                [to], list(zip(limits, accumulate(numbers.by_seconds), strict=True)), numbers.seconds
            )
            passed.add_metric([to, "in"], numbers.received)
            passed.add_metric([to, "out"], numbers.sent)
        return requests, seconds, passed


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
