import gzip
import stat
import subprocess
from pathlib import Path

from wrenn_server.images.data import guest_file
from wrenn_server.images.initrd import Entry, cpio, layout


def test_cpio_unpacks_it(tmp_path: Path):
    entries = [
        Entry("bin", stat.S_IFDIR | 0o755),
        Entry("bin/odd", stat.S_IFREG | 0o755, b"five!"),
        Entry("bin/empty", stat.S_IFREG | 0o644),
        Entry("bin/zero", stat.S_IFCHR | 0o600, device=(1, 5)),
    ]
    archive = cpio(entries)
    listing = subprocess.run(["cpio", "-tvn"], input=archive, capture_output=True, check=True).stdout.decode()
    lines = [line.split() for line in listing.splitlines()]
    assert [(line[0], line[2], line[3], line[-1]) for line in lines] == [
        ("drwxr-xr-x", "0", "0", "bin"),
        ("-rwxr-xr-x", "0", "0", "bin/odd"),
        ("-rw-r--r--", "0", "0", "bin/empty"),
        ("crw-------", "0", "0", "bin/zero"),
    ]
    assert lines[3][4:6] == ["1,", "5"]
    subprocess.run(["cpio", "-idm", "bin/odd"], input=archive, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "bin/odd").read_bytes() == b"five!"


def test_the_same_files_give_the_same_bytes(tmp_path: Path):
    for name in ("order", "a.ko", "b.ko"):
        (tmp_path / name).write_text(name)
    first, second = (gzip.compress(cpio(layout(b"init", b"busybox", tmp_path)), mtime=0) for _ in range(2))
    assert first == second


def test_layout_has_what_the_init_uses(tmp_path: Path):
    (tmp_path / "order").write_text("a.ko\n")
    (tmp_path / "a.ko").write_bytes(b"module")
    entries = {entry.name: entry for entry in layout(guest_file("initrd/init"), b"busybox", tmp_path)}
    init = entries["init"].content.decode()
    assert init.startswith("#!/bin/busybox sh\n")
    assert entries["bin/busybox"].mode == stat.S_IFREG | 0o755
    assert entries["modules/order"].content == b"a.ko\n"
    for folder in ("base", "rw", "newroot", "proc", "dev"):
        assert stat.S_ISDIR(entries[folder].mode), folder
        assert f"/{folder}" in init
