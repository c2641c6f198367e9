"""The initial RAM disk: busybox, the modules of the kernel, and `data/initrd/init`, which joins the guest's two disks."""

import gzip
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.images import apt
from wrenn_server.images.apt import Apt
from wrenn_server.images.cache import Artefact, Cache
from wrenn_server.images.data import guest_file
from wrenn_server.images.kernel import Kernel
from wrenn_server.images.progress import Progress

STEP = "initrd"
BUILDER = "1"
PACKAGE = "busybox-static"
FOLDERS = ("base", "bin", "dev", "modules", "newroot", "proc", "rw")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a cpio archive. `mode` has the type bits; `device` is (major, minor) of a device node."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def cpio(entries: Iterable[Entry]) -> bytes:
    """An archive in the `newc` format that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format),
    owned by root, dated 1970: the same entries always give the same bytes."""
    archive = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields)
        archive += name + _padding(6 + 13 * 8 + len(name))
        archive += entry.content + _padding(len(entry.content))
    return bytes(archive)


def _padding(length: int) -> bytes:
    return b"\0" * (-length % 4)


async def ensure_initrd(cache: Cache, kernel: Kernel, source: Apt, progress: Progress) -> Path:
    """:raises CommandFailed:"""
    init = guest_file("initrd/init")

    async def build(folder: Path) -> None:
        progress.start(STEP)
        with cache.scratch() as scratch:
            deb = await source.download(PACKAGE, scratch, STEP)
            tree = await apt.unpack(deb, scratch / "tree")
            # /usr/bin where the distribution has moved everything there
            [busybox] = [path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.exists()]
            archive = cpio(layout(init, busybox.read_bytes(), kernel.modules))
            (folder / "initrd").write_bytes(gzip.compress(archive, mtime=0))
            (folder / "package").write_text(deb.name + "\n")
        progress.done(STEP)

    return await cache.get(artefact(kernel.key, source.suite), build) / "initrd"


def artefact(kernel_key: str, suite: str) -> Artefact:
    init = guest_file("initrd/init").decode()
    return Artefact(
        "initrd", {"builder": BUILDER, "kernel": kernel_key, "package": PACKAGE, "suite": suite, "init": init}
    )


def layout(init: bytes, busybox: bytes, modules: Path) -> list[Entry]:
    return [
        *(Entry(name, stat.S_IFDIR | 0o755) for name in FOLDERS),
        # The kernel opens it for init before anything could have been mounted.
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("bin/busybox", stat.S_IFREG | 0o755, busybox),
        *(
            Entry(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes())
            for path in sorted(modules.iterdir())
        ),
        Entry("init", stat.S_IFREG | 0o755, init),
    ]
