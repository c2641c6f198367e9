"""Which VMM runs the guests of this host: AGENT_VMM, or what the machine can do."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from wrenn_server.hostagent.config import Config
from wrenn_server.hostagent.vmm.base import Driver
from wrenn_server.hostagent.vmm.choice import Binaries, Choice, opened, probe
from wrenn_server.hostagent.vmm.choice import choose as decide
from wrenn_server.linux.cgroup import Cgroups

PROBE = "kvm-probe.json"
"""In run/: the probe's verdict for this boot of the host."""


@dataclass(frozen=True, slots=True)
class Drivers:
    choice: Choice
    binaries: Binaries | None

    @property
    def accelerated(self) -> bool:
        return self.choice.isolates

    def open(self, cgroups: Cgroups) -> AbstractAsyncContextManager[Driver]:
        """:raises VmmError: its programs are missing or unusable"""
        return opened(self.choice, cgroups, self.binaries)


async def choose(config: Config) -> Drivers:
    """:raises VmmError: what was asked for cannot run here; the message says why
    :raises OSError: the kernel is not there"""
    binaries = Binaries.find()
    tiny = config.kernel.parent / "tiny.elf"
    verdict = await probe(config.data_dir / "run" / PROBE, config.kernel, tiny, binaries)
    return Drivers(decide(config.vmm, verdict, binaries), binaries)
