"""Why did a VM end? A pure judgement over what was seen of it."""

from dataclasses import dataclass

from wrenn_server.hostagent.vmm.base import VmExit
from wrenn_server.hostagent.vmm.console import printable
from wrenn_server.model.sandbox import Reason

_PANIC = (b"Kernel panic - not syncing", b"end Kernel panic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    exit_code: int | None
    """-n for signal n; None when only a later parent knows."""
    killed_by_us: bool
    oom_kills: int
    shutdown: str | None
    """Cause that the VMM gave for a regular end (QMP SHUTDOWN), e.g. `guest-shutdown`, `guest-reset`."""
    console: bytes
    log: bytes
    """The VMM's own messages."""


def judge(evidence: Evidence) -> VmExit:
    reason, detail = _verdict(evidence)
    return VmExit(reason=reason, detail=detail, console=printable(evidence.console))


def _verdict(seen: Evidence) -> tuple[Reason, str]:
    if seen.oom_kills:
        return Reason.OOM_KILLED, "the VM process reached the memory limit of its cgroup"
    if seen.killed_by_us:
        return Reason.USER, "the VM process was killed on request"
    # A panic ends in a reset like a reboot does; only the console tells them apart.
    if any(mark in seen.console for mark in _PANIC):
        return Reason.KERNEL_PANIC, _panic_line(seen.console)
    if seen.shutdown is not None and seen.shutdown.startswith("guest-"):
        return Reason.GUEST_SHUTDOWN, f"the guest ended by itself ({seen.shutdown})"
    if seen.exit_code == 0:
        return Reason.GUEST_SHUTDOWN, "the VM process ended regularly"
    how = "ended" if seen.exit_code is None else _describe(seen.exit_code)
    last = printable(seen.log, 1000).strip().rpartition("\n")[2]
    return Reason.VMM_CRASHED, f"the VM process {how}" + (f": {last}" if last else "")


def _describe(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def _panic_line(console: bytes) -> str:
    for line in printable(console, len(console)).splitlines():
        if "Kernel panic" in line:
            return line.strip()[:300]
    return "kernel panic"
