"""What a process has changed in a private mapping, seen from outside. The process is a child of ours."""

import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wrenn_server.linux import memory

PAGE = mmap.PAGESIZE
PAGES = 4096
CHILD = """
import mmap, sys
fd, pages = int(sys.argv[1]), int(sys.argv[2])
view = mmap.mmap(fd, pages * 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
print(flush=True)
for line in sys.stdin:
    page, value = line.split()
    if value == "?":
        print(view[int(page) * 4096 : int(page) * 4096 + 4].hex(), flush=True)
    else:
        view[int(page) * 4096 : (int(page) + 1) * 4096] = bytes([int(value)]) * 4096
        print(flush=True)
"""


@dataclass
class Child:
    process: "subprocess.Popen[str]"
    inode: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def write(self, page: int, value: int) -> None:
        self.say(f"{page} {value}")


@pytest.fixture
def file() -> Iterator[int]:
    """A memfd like a template's: data at its beginning, the rest a hole."""
    if os.geteuid() != 0:
        pytest.skip("reading another process's page tables needs root")
    fd = os.memfd_create("test")
    os.ftruncate(fd, PAGES * PAGE)
    os.pwrite(fd, b"base" * 1024 * 8, 0)
    yield fd
    os.close(fd)


def start(file: int) -> Child:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(file), str(PAGES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[file],
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return Child(process, os.fstat(file).st_ino)


def stop(child: Child) -> None:
    child.process.communicate()


@pytest.fixture
def child(file: int) -> Iterator[Child]:
    child = start(file)
    yield child
    stop(child)


@pytest.mark.parametrize("scan", [True, False], ids=["PAGEMAP_SCAN", "pagemap"])
def test_only_what_was_written_is_changed(child: Child, scan: bool) -> None:
    for page in (0, 7, 8, PAGES - 1):
        child.write(page, 1)
    child.say("2000 ?")  # reading is no change
    (mapping,) = memory.mappings(child.pid, child.inode)
    pagemap = os.open(f"/proc/{child.pid}/pagemap", os.O_RDONLY)
    found = [
        ((a - mapping.start) // PAGE, (b - mapping.start) // PAGE)
        for a, b in memory.changed(pagemap, mapping, scan=scan)
    ]
    os.close(pagemap)
    assert found == [(0, 1), (7, 9), (PAGES - 1, PAGES)]


@pytest.mark.parametrize("at_once", [4096, 100])
def test_many_ranges_are_all_found(child: Child, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(memory, "_REGIONS", at_once)
    for page in range(0, PAGES, 2):
        child.write(page, 3)
    (mapping,) = memory.mappings(child.pid, child.inode)
    pagemap = os.open(f"/proc/{child.pid}/pagemap", os.O_RDONLY)
    assert len(list(memory.changed(pagemap, mapping))) == PAGES // 2
    assert list(memory.changed(pagemap, mapping)) == list(memory.changed(pagemap, mapping, scan=False))
    os.close(pagemap)


def test_changes_go_into_another_process(file: int, child: Child, tmp_path: Path) -> None:
    child.write(5, 1)
    child.write(6, 2)
    child.write(3000, 3)
    with (tmp_path / "changes").open("w+b") as changes:
        written = memory.dump(child.pid, child.inode, changes.fileno())
        assert written == os.fstat(changes.fileno()).st_size == 3 * PAGE + 2 * 16
        other = start(file)
        try:
            memory.apply(other.pid, other.inode, changes.fileno())
            assert other.say("5 ?") == "01010101"
            assert other.say("6 ?") == "02020202"
            assert other.say("3000 ?") == "03030303"
            assert other.say("0 ?") == b"base".hex()
            # What was applied is the other's own, and changed against the file as well.
            with (tmp_path / "again").open("w+b") as again:
                memory.dump(other.pid, other.inode, again.fileno())
            assert (tmp_path / "again").read_bytes() == (tmp_path / "changes").read_bytes()
        finally:
            stop(other)
    assert os.pread(file, 4, 5 * PAGE) == b"base"


def test_changes_complete_a_copy(child: Child, tmp_path: Path) -> None:
    child.write(2, 9)
    with (tmp_path / "copy").open("w+b") as copy:
        copy.write(b"base" * 1024 * 8)
        copy.truncate(PAGES * PAGE)
        memory.overlay(child.pid, child.inode, copy.fileno())
        assert os.pread(copy.fileno(), 3, 2 * PAGE - 1) == b"e\x09\x09"
        copy.truncate(PAGE)
        with pytest.raises(OSError, match="maps more than"):
            memory.overlay(child.pid, child.inode, copy.fileno())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\0" * 7, "cut off"),
        (struct.pack("<QQ", 0, 100) + b"x" * 99, "damaged"),
        (struct.pack("<QQ", 0, 0), "damaged"),
        (struct.pack("<QQ", 0, 1 << 60), "damaged"),
        (struct.pack("<QQ", PAGES * PAGE - 50, 100) + b"x" * 100, "no mapping has room"),
        (struct.pack("<QQ", 1 << 50, 100) + b"x" * 100, "no mapping has room"),
    ],
)
def test_damaged_changes_are_refused(child: Child, tmp_path: Path, record: bytes, message: str) -> None:
    (tmp_path / "changes").write_bytes(record)
    with (tmp_path / "changes").open("rb") as changes, pytest.raises(OSError, match=message):
        memory.apply(child.pid, child.inode, changes.fileno())


def test_shared_mappings_have_no_changes(child: Child) -> None:
    assert memory.mappings(os.getpid(), child.inode) == []
