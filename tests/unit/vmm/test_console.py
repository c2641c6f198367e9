"""What a guest prints: bounded, printable, and never in the writer's way."""

import asyncio
import os
from pathlib import Path

import pytest

from wrenn_server.hostagent.vmm.console import KEEP, Tail, make_fifo, open_fifo, printable


@pytest.fixture
def fifo(tmp_path: Path) -> tuple[Path, int]:
    path = tmp_path / "console"
    return path, make_fifo(path)


async def test_the_end_of_the_output_is_kept(fifo: tuple[Path, int]) -> None:
    path, fd = fifo
    writer = open_fifo(path)
    tail = Tail(fd, keep=10)
    os.write(writer, b"0123456789abcdef")
    assert tail.bytes() == b"6789abcdef"
    os.write(writer, b"!")
    tail.close()
    assert tail.bytes() == b"789abcdef!"
    os.close(writer)


async def test_output_is_read_in_the_background_so_that_the_writer_goes_on(fifo: tuple[Path, int]) -> None:
    path, fd = fifo
    writer = open_fifo(path)
    tail = Tail(fd)
    written = 0
    while written <= KEEP:  # more than a FIFO holds: only possible if somebody reads
        try:
            written += os.write(writer, b"x" * 4096)
        except BlockingIOError:
            await asyncio.sleep(0.01)
    assert len(tail.bytes()) == KEEP
    tail.close()
    os.close(writer)


async def test_a_writer_nobody_listens_to_is_not_blocked(fifo: tuple[Path, int]) -> None:
    path, fd = fifo
    writer = open_fifo(path)
    assert os.write(writer, b"x" * 2 * KEEP) <= KEEP
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    os.close(writer)
    os.close(fd)


def test_control_characters_do_not_come_through() -> None:
    assert printable(b"\x1b[31mred\x07\r\nnext\tline\n\x00") == "·[31mred·\nnext\tline\n·"
    assert printable("grün \u202e".encode()) == "grün ·"
    assert printable(b"\xff") == "\ufffd"
    assert printable(b"a" * 10, limit=3) == "aaa"
