"""Every end of a VM gets one reason."""

from dataclasses import replace

import pytest

from wrenn_server.hostagent.vmm.exits import Evidence, judge
from wrenn_server.model.sandbox import Reason

NOTHING = Evidence(exit_code=0, killed_by_us=False, oom_kills=0, shutdown=None, console=b"", log=b"")
PANIC = b"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\n[ 1.1] more\n"


@pytest.mark.parametrize(
    ("evidence", "reason", "detail"),
    [
        (NOTHING, Reason.GUEST_SHUTDOWN, "regularly"),
        (replace(NOTHING, shutdown="guest-shutdown"), Reason.GUEST_SHUTDOWN, "guest-shutdown"),
        (replace(NOTHING, shutdown="guest-reset"), Reason.GUEST_SHUTDOWN, "guest-reset"),
        (
            replace(NOTHING, shutdown="guest-reset", console=PANIC),
            Reason.KERNEL_PANIC,
            "Attempted to kill init!",
        ),
        (replace(NOTHING, exit_code=-9, killed_by_us=True), Reason.USER, "on request"),
        (replace(NOTHING, exit_code=-9, killed_by_us=True, console=PANIC), Reason.USER, "on request"),
        (replace(NOTHING, exit_code=-9, oom_kills=1), Reason.OOM_KILLED, "memory limit"),
        (replace(NOTHING, exit_code=-9, oom_kills=1, killed_by_us=True), Reason.OOM_KILLED, "memory limit"),
        (replace(NOTHING, exit_code=-9), Reason.VMM_CRASHED, "signal 9"),
        (
            replace(NOTHING, exit_code=-11, log=b"a\nassertion failed\n"),
            Reason.VMM_CRASHED,
            ": assertion failed",
        ),
        (replace(NOTHING, exit_code=1, shutdown="host-error"), Reason.VMM_CRASHED, "code 1"),
        (replace(NOTHING, exit_code=None), Reason.VMM_CRASHED, "ended"),
        (
            replace(NOTHING, exit_code=None, shutdown="guest-shutdown"),
            Reason.GUEST_SHUTDOWN,
            "guest-shutdown",
        ),
    ],
)
def test_reason(evidence: Evidence, reason: Reason, detail: str) -> None:
    end = judge(evidence)
    assert end.reason is reason
    assert detail in end.detail


def test_the_console_is_bounded_and_printable() -> None:
    end = judge(replace(NOTHING, console=b"\x1b" * 100_000))
    assert end.console == "·" * 4096
