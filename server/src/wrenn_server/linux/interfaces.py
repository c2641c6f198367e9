"""Network interfaces, as the kernel counts them."""

from pathlib import Path

_CLASS = Path("/sys/class/net")


def received_bytes(name: str) -> int:
    """That the interface has received since it was made: of a cable's outer end, what was sent inside. 0: it is not
    there."""
    try:
        return int((_CLASS / name / "statistics/rx_bytes").read_text())
    except OSError:
        return 0
