"""scripts/update-debug-rootfs.sh, run as a person runs it."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from wrenn_server.images import ext4
from wrenn_server.images.data import guest_file

pytestmark = pytest.mark.skipif(
    shutil.which("mke2fs", path="/usr/sbin:/sbin") is None, reason="e2fsprogs is not installed"
)
SCRIPT = Path(__file__).resolve().parents[3] / "scripts/update-debug-rootfs.sh"
UUID = "77726e6e-0000-4000-8000-000000000002"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "usr/local/bin").mkdir(parents=True)
    (tree / "usr/local/bin/envd").write_text("old")
    (tree / "usr/sbin").mkdir()
    (tree / "sbin").symlink_to("usr/sbin")
    image = tmp_path / "data dir/images/minimal.ext4"
    image.parent.mkdir(parents=True)
    asyncio.run(ext4.make(image, tree=tree, label="wrenn-root", uuid=UUID, epoch=0))
    image.chmod(0o444)
    return image


@pytest.fixture
def envd(tmp_path: Path) -> Path:
    envd = tmp_path / "my envd"
    envd.write_text("new envd")
    return envd


def update(*argv: str | Path, cwd: Path, **environ: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **{name: str(value) for name, value in environ.items()}}
    return subprocess.run([SCRIPT, *argv], cwd=cwd, env=env, capture_output=True, text=True)


def cat(image: Path, path: str) -> str:
    argv = ["debugfs", "-R", f"cat {path}", str(image)]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


def test_both_programs_go_in(image: Path, envd: Path, tmp_path: Path):
    before = image.stat()
    with image.open("rb") as running:
        done = update(image, cwd=tmp_path, ENVD=envd)
        assert done.returncode == 0, done.stderr
        # Whoever runs from the image keeps the file that it opened.
        assert os.fstat(running.fileno()).st_mtime_ns == before.st_mtime_ns
    assert cat(image, "/usr/local/bin/envd") == "new envd"
    assert cat(image, "/usr/sbin/wrenn-init") == guest_file("init/wrenn-init").decode()
    assert image.stat().st_mode == before.st_mode
    assert image.stat().st_ino != before.st_ino
    assert [path.name for path in image.parent.iterdir()] == ["minimal.ext4"]


@pytest.mark.parametrize("argv", [[], ["minimal"]])
def test_a_template_of_the_data_directory(argv: list[str], image: Path, envd: Path, tmp_path: Path):
    done = update(*argv, cwd=tmp_path, ENVD=envd, WRENN_DATA_DIR=image.parent.parent)
    assert done.returncode == 0, done.stderr
    assert cat(image, "/usr/local/bin/envd") == "new envd"


def test_a_missing_image(envd: Path, tmp_path: Path):
    done = update("none", cwd=tmp_path, ENVD=envd, WRENN_DATA_DIR=tmp_path)
    assert done.returncode == 1
    assert f"there is no image {tmp_path}/images/none.ext4" in done.stderr


@pytest.mark.parametrize("content", [b"", b"text", bytes(1 << 16)])
def test_what_is_not_ext4(content: bytes, envd: Path, tmp_path: Path):
    (tmp_path / "image").write_bytes(content)
    done = update("image", cwd=tmp_path, ENVD=envd)
    assert done.returncode == 1
    assert "is not an ext4 image" in done.stderr
    assert (tmp_path / "image").read_bytes() == content


def test_a_missing_envd(image: Path, tmp_path: Path):
    done = update(image, cwd=tmp_path, ENVD=tmp_path / "none")
    assert done.returncode == 1
    assert "there is no envd" in done.stderr


def test_an_envd_that_does_not_fit_changes_nothing(image: Path, envd: Path, tmp_path: Path):
    envd.write_bytes(os.urandom(48 << 20))
    done = update(image, cwd=tmp_path, ENVD=envd)
    assert done.returncode == 1
    assert "the old one stays" in done.stderr
    assert cat(image, "/usr/local/bin/envd") == "old"
    assert [path.name for path in image.parent.iterdir()] == ["minimal.ext4"]


def test_usage(tmp_path: Path):
    assert "IMAGE" in update("--help", cwd=tmp_path).stdout
    assert update("--nonsense", cwd=tmp_path).returncode == 2
    assert update("a", "b", cwd=tmp_path).returncode == 2
