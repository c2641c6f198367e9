"""What `/metrics` shows of the host agent."""

from collections import Counter as Count
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wrenn_server.edge.target import Exchange, Tunnel
from wrenn_server.model.sandbox import State
from wrenn_server.wire.agent import SandboxReport

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Metrics:
    def __init__(self, sandboxes: Callable[[], list[SandboxReport]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Sandboxes(sandboxes))
        self._calls = Histogram(
            "wrenn_agent_call_seconds",
            "Calls of the control plane by method, action and status.",
            ["method", "action", "status"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._tunnels = Counter(
            "wrenn_agent_tunnels",
            "Byte tunnels into sandboxes, by status.",
            ["status"],
            registry=self.registry,
        )
        self._bytes = Counter(
            "wrenn_agent_tunnel_bytes", "Bytes through tunnels.", ["direction"], registry=self.registry
        )

    def observe(self, exchange: Exchange) -> None:
        """Called by the listener with each finished request."""
        if isinstance(exchange.to, Tunnel):
            self._tunnels.labels(str(exchange.status)).inc()
            self._bytes.labels("in").inc(exchange.received)
            self._bytes.labels("out").inc(exchange.sent)
            return
        self._calls.labels(exchange.method, action(exchange.target), str(exchange.status)).observe(
            exchange.seconds
        )


def action(target: str) -> str:
    """The fixed part of a call's path: names from outside make no labels."""
    parts = target.partition("?")[0].split("/")
    last = parts[-1] if len(parts) == 5 else ""
    return last if last in {"pause", "resume", "fork", "timeout", "prepare"} else "other"


class _Sandboxes(Collector):
    def __init__(self, sandboxes: Callable[[], list[SandboxReport]]) -> None:
        self._sandboxes = sandboxes

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily(
            "wrenn_agent_sandboxes", "Sandboxes of this host by state.", labels=["state"]
        )
        counts = Count(report.state for report in self._sandboxes())
        for state in State:
            gauge.add_metric([state.value], counts[state])
        yield gauge
