import os
import py_compile
import struct
import subprocess
from pathlib import Path

import pytest

from wrenn_server.images import rootfs
from wrenn_server.images.build import TEMPLATES, plan
from wrenn_server.images.data import guest_file


class Recorder:
    def __init__(self) -> None:
        self.total: int | None = None
        self.count = 0
        self.lines: list[str] = []

    def start(self, step: str, total: int | None = None) -> None:
        self.total = total

    def advance(self, step: str, amount: int = 1) -> None:
        self.count += amount

    def line(self, step: str, text: str) -> None:
        self.lines.append(text)

    def done(self, step: str) -> None:
        pass


def test_packages_and_remarks():
    assert rootfs.parse_packages("# remark\n\nbash\ngit\n") == ["bash", "git"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_packages_of_the_templates(name: str):
    packages = rootfs.parse_packages(guest_file(f"{name}/packages").decode())
    assert packages == sorted(set(packages))
    # What E2B's SDK and its users take for granted in every template.
    assert {
        "ca-certificates",
        "curl",
        "git",
        "ncurses-bin",
        "procps",
        "python3",
        "python-is-python3",
        "sudo",
    } <= {*packages}


def test_progress_of_mmdebstrap():
    progress = Recorder()
    on_line = rootfs.package_counter(progress, "step")
    for text in (
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        "Unpacking libc6:amd64 (2.36-9) ...",
        "Setting up libc6:amd64 (2.36-9) ...",
        "0 upgraded, 3 newly installed, 0 to remove and 0 not upgraded.",
    ):
        on_line(text)
    assert (progress.count, progress.total, len(progress.lines)) == (2, 10, 4)


def test_dates(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    packaged, made, link = tmp_path / "packaged", tmp_path / "folder/made", tmp_path / "folder/link"
    packaged.touch()
    made.touch()
    link.symlink_to("nowhere")
    os.utime(packaged, (1, 1_700_000_000))
    rootfs.date(tmp_path, newest=1_750_000_000)
    assert packaged.stat().st_mtime == 1_700_000_000
    assert made.stat().st_mtime == link.lstat().st_mtime == made.parent.stat().st_mtime == rootfs.EPOCH


def test_compiled_python_goes_by_dates(tmp_path: Path):
    folder = tmp_path / "usr/lib/python3.11/json"
    folder.mkdir(parents=True)
    source = folder / "tool.py"
    source.write_text("value = 1\n")
    os.utime(source, (1, 1_700_000_000))
    compiled = Path(
        py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH) or ""
    )
    code = compiled.read_bytes()[16:]
    rootfs.trust_dates(tmp_path)
    assert compiled.read_bytes()[4:16] == struct.pack("<III", 0, 1_700_000_000, 10)
    assert compiled.read_bytes()[16:] == code
    assert compiled.stat().st_mtime == rootfs.EPOCH


def test_a_new_envd_changes_the_image_and_nothing_else(tmp_path: Path):
    envd = tmp_path / "envd"
    envd.write_bytes(b"one")
    before = plan("bookworm", envd, TEMPLATES)
    base = rootfs.base_artefact("minimal", "bookworm")
    envd.write_bytes(b"two")
    after = plan("bookworm", envd, TEMPLATES)
    assert {kind for kind in before if before[kind].key != after[kind].key} == {"image-minimal"}
    assert rootfs.base_artefact("minimal", "bookworm").key == base.key


def test_another_release_changes_everything_that_is_debians(tmp_path: Path):
    envd = tmp_path / "envd"
    envd.touch()
    bookworm, trixie = (plan(suite, envd, TEMPLATES) for suite in ("bookworm", "trixie"))
    assert {kind for kind in bookworm if bookworm[kind].key == trixie[kind].key} == {"tiny"}


@pytest.mark.parametrize("name", ["initrd/init", "init/wrenn-init", "minimal/customize"])
def test_shells_accept_the_scripts(name: str):
    check = subprocess.run(["sh", "-n"], input=guest_file(name), capture_output=True)
    assert check.returncode == 0, check.stderr.decode()
