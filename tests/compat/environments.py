"""Interpreters with one SDK each, exactly as published."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from compat.flavours import Flavour
from support.environments import TOOLS, install_python, kept

HERE = Path(__file__).parent


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


def install_javascript(place: Path, files: list[Path]) -> None:
    for file in files:
        shutil.copy(file, place)
    npm = [TOOLS / "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    environ = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    subprocess.run(npm, cwd=place, env=environ, check=True, timeout=300)


def link(name: Path, target: Path) -> None:
    with contextlib.suppress(FileExistsError):
        name.symlink_to(target)
