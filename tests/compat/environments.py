"""Interpreters with one SDK each, exactly as published. Kept by the hash of what is in them, so that only the first
run downloads anything."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from compat.flavours import Flavour

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("WRENN_TEST_DATA", "/var/cache/wrenn-test")) / "sdks"
TOOLS = Path(sys.executable).parent
"""uv, node and npm are among the workspace's own dependencies."""


def command(flavour: Flavour, scratch: Path) -> list[str]:
    """What runs the cases with the flavour's SDK; its working directory is this folder."""
    if flavour.requirements is None:
        modules = kept([HERE / "javascript_cases" / name for name in PACKAGE_FILES], install_javascript)
        # Node looks for packages beside the program: a folder in which both are links.
        link(scratch / "node_modules", modules / "node_modules")
        link(scratch / "compat", HERE)
        node = [TOOLS / "node", "--preserve-symlinks", "--preserve-symlinks-main"]
        return [*map(str, node), str(scratch / "compat/javascript_cases/main.mjs"), flavour.suite]
    environment = kept([HERE / "sdks" / flavour.requirements], install_python)
    return [str(environment / "bin/python"), "-m", "python_cases", flavour.suite, flavour.half or ""]


PACKAGE_FILES = ("package.json", "package-lock.json")


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


def install_javascript(place: Path, files: list[Path]) -> None:
    for file in files:
        shutil.copy(file, place)
    npm = [TOOLS / "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    environ = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    subprocess.run(npm, cwd=place, env=environ, check=True, timeout=300)


def link(name: Path, target: Path) -> None:
    with contextlib.suppress(FileExistsError):
        name.symlink_to(target)
