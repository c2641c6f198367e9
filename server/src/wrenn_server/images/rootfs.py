"""Root file systems of guests. Two artefacts each, because one changes daily and the other costs a minute:

- the *base*: Debian's packages and `data/<name>/customize`, by mmdebstrap and mke2fs;
- the *image*: a copy of the base with envd and wrenn-init in it, by debugfs.
"""

import hashlib
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

from wrenn_server.images import ext4
from wrenn_server.images.apt import Apt
from wrenn_server.images.cache import Artefact, Cache
from wrenn_server.images.data import guest_file
from wrenn_server.images.progress import Progress
from wrenn_server.linux.process import run

BUILDER = "2"
LABEL = "wrenn-root"
UUID = "77726e6e-0000-4000-8000-726f6f746673"
# The date of all files that packages do not date: 2025-01-01.
EPOCH = 1735689600
BUILD_TIMEOUT = 1800.0

ENVD = "/usr/local/bin/envd"
INIT = "/sbin/wrenn-init"

CHECKED_HASH = struct.pack("<I", 3)

DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)
APT_OPTIONS = ('Acquire::Languages "none";', 'APT::Install-Recommends "false";')


def base_artefact(name: str, suite: str) -> Artefact:
    inputs = {
        "builder": BUILDER,
        "suite": suite,
        "packages": guest_file(f"{name}/packages").decode(),
        "customize": guest_file(f"{name}/customize").decode(),
        "options": "\n".join([*DPKG_OPTIONS, *APT_OPTIONS, ext4.FEATURES]),
    }
    return Artefact(f"base-{name}", inputs)


def image_artefact(name: str, suite: str, envd: Path) -> Artefact:
    inputs = {
        "builder": BUILDER,
        "base": base_artefact(name, suite).key,
        "envd": hashlib.sha256(envd.read_bytes()).hexdigest(),
        "init": guest_file("init/wrenn-init").decode(),
    }
    return Artefact(f"image-{name}", inputs)


async def ensure_rootfs(cache: Cache, name: str, source: Apt, envd: Path, progress: Progress) -> Path:
    """The ext4 image of the template `name`, with the `envd` program of that path inside.

    :raises CommandFailed, UnsuitableHost, BadImage:
    """
    base = await _ensure_base(cache, name, source, progress)
    step = f"{name} image"

    async def build(folder: Path) -> None:
        progress.start(step)
        with cache.scratch() as scratch:
            init = scratch / "wrenn-init"
            init.write_bytes(guest_file("init/wrenn-init"))
            image = folder / f"{name}.ext4"
            await run(["cp", "--reflink=auto", "--sparse=always", str(base), str(image)])
            image.chmod(0o644)
            await ext4.put(image, {ENVD: envd.absolute(), INIT: init}, epoch=EPOCH)
        progress.done(step)

    return await cache.get(image_artefact(name, source.suite, envd), build) / f"{name}.ext4"


async def _ensure_base(cache: Cache, name: str, source: Apt, progress: Progress) -> Path:
    step = f"{name} root file system"

    async def build(folder: Path) -> None:
        progress.start(step)
        with cache.scratch() as scratch:
            tree = scratch / "root"
            await _bootstrap(name, source, tree, scratch, progress, step)
            packages = await run(["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "--show"])
            (folder / "packages").write_bytes(packages.stdout)
            progress.line(step, "writing the ext4 image")
            await ext4.make(folder / "base.ext4", tree=tree, label=LABEL, uuid=UUID, epoch=EPOCH)
        progress.done(step)

    return await cache.get(base_artefact(name, source.suite), build) / "base.ext4"


async def _bootstrap(
    name: str, source: Apt, tree: Path, scratch: Path, progress: Progress, step: str
) -> None:
    customize = scratch / "customize"
    customize.write_bytes(guest_file(f"{name}/customize"))
    customize.chmod(0o755)
    packages = parse_packages(guest_file(f"{name}/packages").decode())
    aptopts = [*APT_OPTIONS, *await source.settings()]
    started = int(time.time())
    await run(
        [
            # Its mounts go with its namespace, whatever ends it: a tree that is removed holds no live /dev or /proc.
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"),
            *("mmdebstrap", "--mode=root", "--format=directory", "--variant=apt"),
            *(f"--include={package}" for package in packages),
            *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
            *(f"--aptopt={option}" for option in aptopts),
            f"--customize-hook={customize}",
            *(source.suite, str(tree), *map(str, await source.sources(step))),
        ],
        env={"TMPDIR": str(scratch), "SOURCE_DATE_EPOCH": str(EPOCH)},
        timeout=BUILD_TIMEOUT,
        on_line=package_counter(progress, step),
    )
    date(tree, newest=started)
    trust_dates(tree)


def parse_packages(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def package_counter(progress: Progress, step: str) -> Callable[[str], None]:
    """Counts a package when it is unpacked and when it is set up."""
    total = 0

    def on_line(text: str) -> None:
        nonlocal total
        progress.line(step, text)
        if found := re.search(r"(\d+) newly installed", text):
            total += 2 * int(found.group(1))
            progress.start(step, total)
        elif text.startswith(("Unpacking ", "Setting up ")):
            progress.advance(step)

    return on_line


def date(tree: Path, newest: int) -> None:
    """Gives everything that the build wrote, and no file of a package, the same date. Dates of packages stay, because
    compiled Python carries the date of its source."""
    for parent, folders, names in os.walk(tree):
        for path in (Path(parent, name) for name in [*folders, *names]):
            if path.lstat().st_mtime >= newest:
                os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def trust_dates(tree: Path) -> None:
    """Makes compiled Python compare the date of its source. With SOURCE_DATE_EPOCH set, Python compiles so that every
    import reads and hashes the source instead (PEP 552), which an emulated CPU feels."""
    for compiled in tree.glob("usr/lib/python3*/**/__pycache__/*.pyc"):
        source = compiled.parent.parent / f"{compiled.name.partition('.')[0]}.py"
        with compiled.open("r+b") as file:
            header = file.read(8)
            if header[4:] == CHECKED_HASH and source.is_file():
                info = source.stat()
                file.seek(4)
                file.write(struct.pack("<III", 0, int(info.st_mtime), info.st_size))
                file.flush()
                os.utime(file.fileno(), (EPOCH, EPOCH))
