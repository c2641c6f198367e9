"""What Prometheus may know of the control plane, at `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector

from wrenn_server.edge.target import Answer, Exchange, Tunnel, Upstream

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    def __init__(self) -> None:
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
