"""Against the real e2fsprogs: small images, made and read without mounting."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from wrenn_server.images import ext4
from wrenn_server.linux.process import run

pytestmark = pytest.mark.skipif(
    shutil.which("mke2fs", path="/usr/sbin:/sbin") is None, reason="e2fsprogs is not installed"
)
EPOCH = 1735689600
UUID = "77726e6e-0000-4000-8000-000000000001"


@pytest.fixture
async def image(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "usr/local/bin").mkdir(parents=True)
    (tree / "usr/sbin").mkdir()
    (tree / "sbin").symlink_to("usr/sbin")
    (tree / "etc").mkdir()
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tree / "usr/data").write_bytes(os.urandom(100_000))
    (tree / "usr/same").hardlink_to(tree / "usr/data")
    image = tmp_path / "image.ext4"
    await ext4.make(image, tree=tree, label="wrenn-root", uuid=UUID, epoch=EPOCH)
    return image


def debugfs(image: Path, command: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", command, str(image)], capture_output=True, check=True
    ).stdout.decode()


async def test_make(image: Path, tmp_path: Path):
    header = (await run(["dumpe2fs", "-h", str(image)])).stdout.decode()
    assert "wrenn-root" in header
    assert UUID in header
    assert "has_journal" not in header
    assert debugfs(image, "cat /etc/passwd") == "root:x:0:0::/root:/bin/sh\n"
    free = next(int(line.split()[-1]) for line in header.splitlines() if line.startswith("Free blocks"))
    assert free * 4096 >= ext4.SLACK_BYTES
    await run(["e2fsck", "-fn", str(image)])


def test_measure_counts_hard_links_once(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_bytes(b"x" * 4097)
    (tmp_path / "two").hardlink_to(tmp_path / "folder/one")
    blocks, inodes = ext4.measure(tmp_path)
    assert inodes == 2
    assert blocks >= 2


async def test_put_replaces_programs_behind_symbolic_links(image: Path, tmp_path: Path):
    for content in (b"first", b"second, and longer"):
        program = tmp_path / "some program"
        program.write_bytes(content)
        program.chmod(0o600)
        await ext4.put(image, {"/usr/local/bin/envd": program, "/sbin/wrenn-init": program}, epoch=EPOCH)
        for path in ("/usr/local/bin/envd", "/usr/sbin/wrenn-init"):
            assert debugfs(image, f"cat {path}").encode() == content
            described = debugfs(image, f"stat {path}")
            assert "Mode:  0755" in described
            assert "User:     0   Group:     0" in described
            assert f"mtime: 0x{EPOCH:08x}" in described


async def test_put_says_when_it_does_not_fit(image: Path, tmp_path: Path):
    program = tmp_path / "big"
    program.write_bytes(os.urandom(48 << 20))
    with pytest.raises(ext4.BadImage, match="did not fit"):
        await ext4.put(image, {"/usr/local/bin/envd": program}, epoch=EPOCH)


async def test_put_needs_the_folder(image: Path, tmp_path: Path):
    program = tmp_path / "program"
    program.write_bytes(b"x")
    with pytest.raises(ext4.BadImage):
        await ext4.put(image, {"/no/such/folder/envd": program}, epoch=EPOCH)


async def test_the_same_tree_gives_the_same_files(image: Path, tmp_path: Path):
    """Byte for byte it is not the same image: mke2fs keeps the inode change times of the tree."""
    again = tmp_path / "again.ext4"
    await ext4.make(again, tree=tmp_path / "tree", label="wrenn-root", uuid=UUID, epoch=EPOCH)
    assert debugfs(image, "ls -l /usr") == debugfs(again, "ls -l /usr")
    assert image.stat().st_size == again.stat().st_size
