"""Fixtures that several rings of tests share."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from wrenn_server.images.build import ensure_all
from wrenn_server.images.progress import Silent
from wrenn_server.up.settings import CACHE_DIR

REPOSITORY = Path(__file__).resolve().parent.parent
TEST_DATA = Path(os.environ.get("WRENN_TEST_DATA", "/var/cache/wrenn-test"))


@pytest.fixture(scope="session")
def envd_binary() -> Path:
    """The guest agent, built when it is missing."""
    binary = REPOSITORY / "builds/envd"
    if not binary.exists():
        subprocess.run(["make", "build-envd"], cwd=REPOSITORY, check=True)
    return binary


@pytest.fixture(scope="session")
def guest_images(envd_binary: Path) -> Path:
    """A data directory with `kernels/` and `images/` to boot from, built once and kept between runs."""
    need_virtual_machines()
    asyncio.run(ensure_all(TEST_DATA, envd_binary, Silent(), cache_dir=CACHE_DIR))
    return TEST_DATA


def need_virtual_machines() -> None:
    if os.geteuid() != 0:
        pytest.skip("virtual machines need root")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
