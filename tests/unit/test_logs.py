"""Logs go wherever standard error goes, and are never a reason for anything to fail."""

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from wrenn_server.obs.logs import Lines

PROGRAM = """
import logging
import structlog
from wrenn_server.obs import logs

logs.set_up("wrenn-test")
structlog.get_logger().warning("ours", action="ours")
logging.getLogger("another").warning("theirs")
print("alive")
"""


def tell(stderr: IO[bytes] | int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=stderr, check=True)


def test_ours_and_those_of_libraries_are_told() -> None:
    lines = [json.loads(line) for line in tell(subprocess.PIPE).stderr.splitlines()]
    assert [line["event"] for line in lines] == ["ours", "theirs"]
    assert lines[0]["program"] == "wrenn-test"


def test_a_full_disk_stops_nobody() -> None:
    with Path("/dev/full").open("wb") as full:
        assert tell(full).stdout == b"alive\n"


class Filling(io.StringIO):
    """Has room for a part of a line, once."""

    full = False

    def write(self, text: str) -> int:
        if not self.full:
            return super().write(text)
        super().write(text[:4])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("lost", [1, 3])
def test_a_line_that_was_broken_off_does_not_spoil_the_next(lost: int) -> None:
    file = Filling()
    lines = Lines(file)
    lines.write("first line\n")
    file.full = True
    for _ in range(lost):
        lines.write("second line\n")
    file.full = False
    lines.write("third line\n")
    lines.write("fourth line\n")
    told = file.getvalue().splitlines()
    assert told[0] == "first line"
    assert told[-2:] == ["third line", "fourth line"]
