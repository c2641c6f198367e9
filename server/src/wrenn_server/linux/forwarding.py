"""IPv4 forwarding of the host: needed for guests' way out, put back when we leave."""

import os
from pathlib import Path

SWITCH = Path("/proc/sys/net/ipv4/ip_forward")


def is_on(switch: Path = SWITCH) -> bool:
    return switch.read_text().strip() == "1"


def switch_on(remember: Path, switch: Path = SWITCH) -> None:
    """Switches forwarding on, and notes in `remember` that it was off."""
    if not is_on(switch):
        remember.write_text("0")
        switch.write_text("1")


def put_back(remember: Path, switch: Path = SWITCH) -> None:
    """Undoes `switch_on`, if it did anything."""
    if remember.exists():
        switch.write_text(remember.read_text())
        os.unlink(remember)
