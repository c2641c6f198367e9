"""Network interfaces, as the kernel counts them."""

from pathlib import Path

CLASS = Path("/sys/class/net")
"""Of the network namespace that sysfs was mounted in, whichever one a thread is in."""


def received_bytes(name: str) -> int:
    """That the interface has received since it was made: of a cable's outer end, what was sent inside. 0: it is not
    there."""
    try:
        return int((CLASS / name / "statistics/rx_bytes").read_text())
    except OSError:
        return 0
