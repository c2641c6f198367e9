"""Everything that guests boot from, built where missing and put where the host agent looks for it."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.images import initrd as initrds
from wrenn_server.images import kernel as kernels
from wrenn_server.images import rootfs as rootfses
from wrenn_server.images import tiny as tinies
from wrenn_server.images.apt import Apt, host_suite, require_tools
from wrenn_server.images.cache import Artefact, Cache, publish
from wrenn_server.images.progress import Progress

TEMPLATES = ("minimal",)
# Host commands that a build runs, and the Debian packages that have them.
TOOLS = (
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("lz4", "lz4"),
    ("as", "binutils"),
    ("ld", "binutils"),
)


@dataclass(frozen=True, slots=True)
class Images:
    """Where the files are. `rootfs` has one image a template; `identity` differs as soon as anything does that a guest
    of that template boots from, so a memory snapshot of one fits no other."""

    vmlinux: Path
    initrd: Path
    tiny: Path
    rootfs: Mapping[str, Path]
    identity: Mapping[str, str]


async def ensure_all(
    data_dir: Path, envd: Path, progress: Progress, *, templates: Sequence[str] = TEMPLATES
) -> Images:
    """Builds what is missing under `data_dir` (as root), in some 40 s and 60 MB of downloads the first time. With
    nothing to do it takes milliseconds and no network. A new `envd` costs a second.

    Newer Debian packages are not looked for: an image stays as it is until its inputs change or `cache/` is removed.

    :raises UnsuitableHost: not Debian, or tools are missing; the text names them.
    :raises CommandFailed, BadKernel, BadImage, OSError:
    """
    suite = host_suite(Path("/etc/os-release").read_text())
    cache = Cache(data_dir / "cache")
    built = plan(suite, envd, templates)
    if any(cache.find(artefact) is None for artefact in built.values()):
        require_tools(*TOOLS)
        source = Apt(suite, progress)
        async with cache.lock():
            # The kernel's download overlaps with mmdebstrap's single thread.
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_boot_files(cache, source, progress))
                    group.create_task(_images(cache, source, envd, templates, progress))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
    images = Images(
        vmlinux=data_dir / "kernels/vmlinux",
        initrd=data_dir / "kernels/initrd",
        tiny=data_dir / "kernels/tiny.elf",
        rootfs={name: data_dir / f"images/{name}.ext4" for name in templates},
        identity={name: _identity(built["initrd"], built[f"image-{name}"]) for name in templates},
    )
    targets = [images.vmlinux, images.initrd, images.tiny, *images.rootfs.values()]
    for artefact, target in zip(built.values(), targets, strict=True):
        publish(cache.root / artefact.kind / artefact.key / target.name, target)
    return images


def plan(suite: str, envd: Path, templates: Sequence[str]) -> dict[str, Artefact]:
    kernel = kernels.artefact(suite)
    artefacts = [kernel, initrds.artefact(kernel.key, suite), tinies.artefact()]
    artefacts += [rootfses.image_artefact(name, suite, envd) for name in templates]
    return {artefact.kind: artefact for artefact in artefacts}


async def _boot_files(cache: Cache, source: Apt, progress: Progress) -> None:
    await tinies.ensure_tiny(cache, progress)
    kernel = await kernels.ensure_kernel(cache, source, progress)
    await initrds.ensure_initrd(cache, kernel, source, progress)


async def _images(
    cache: Cache, source: Apt, envd: Path, templates: Sequence[str], progress: Progress
) -> None:
    for name in templates:
        await rootfses.ensure_rootfs(cache, name, source, envd, progress)


def _identity(*parts: Artefact) -> str:
    return hashlib.sha256(" ".join(part.key for part in parts).encode()).hexdigest()[:16]
