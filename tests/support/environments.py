"""Environments with what tests run beside the workspace's own. Kept by the hash of what is in them, so that only the first
run downloads anything."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("WRENN_TEST_DATA", "/var/cache/wrenn-test")) / "sdks"
TOOLS = Path(sys.executable).parent
"""uv, node and npm are among the workspace's own dependencies."""


def kept(files: list[Path], install: Callable[[Path, list[Path]], None]) -> Path:
    """The folder that `install` fills from the files; filled once."""
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(file.read_bytes())
    place = CACHE / f"{files[0].stem}-{digest.hexdigest()[:16]}"
    if place.exists():
        return place
    CACHE.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=CACHE, prefix="new-"))
    try:
        install(fresh, files)
        fresh.rename(place)
    except OSError:
        if not place.exists():  # else another run was quicker
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place


def install_python(place: Path, files: list[Path]) -> None:
    [requirements] = files
    uv = TOOLS / "uv"
    subprocess.run(
        [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place],
        check=True,
        timeout=120,
    )
    install = [uv, "pip", "install", "--quiet", "--require-hashes", "--python", place / "bin/python"]
    subprocess.run([*install, "-r", requirements], check=True, timeout=300)
