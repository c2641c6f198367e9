"""Everything that guests boot from, built where missing and put where the host agent looks for it."""

import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.images import initrd as initrds
from wrenn_server.images import kernel as kernels
from wrenn_server.images import rootfs as rootfses
from wrenn_server.images import tiny as tinies
from wrenn_server.images.apt import Apt, UnsuitableHost, host_suite, require_tools
from wrenn_server.images.cache import Artefact, Cache, is_published, publish
from wrenn_server.images.ext4 import BadImage
from wrenn_server.images.kernel import BadKernel
from wrenn_server.images.progress import Lines, Progress
from wrenn_server.linux.process import CommandFailed

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
    data_dir: Path,
    envd: Path,
    progress: Progress,
    *,
    cache_dir: Path | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> Images:
    """Builds what is missing (as root), in some 40 s and 80 MB of downloads the first time. With nothing to do it takes
    milliseconds and no network. A new `envd` costs a second.

    `cache_dir` (default: `data_dir`/cache) can serve several data directories, one build at a time. Newer Debian
    packages are not looked for: an image stays as it is until its inputs change or the cache is removed.

    :raises UnsuitableHost: not Debian, or tools are missing; the text names them.
    :raises CommandFailed, BadKernel, BadImage, OSError:
    """
    suite = host_suite(Path("/etc/os-release").read_text())
    cache = Cache(cache_dir or data_dir / "cache")
    built = plan(suite, envd, templates)
    images = Images(
        vmlinux=data_dir / "kernels/vmlinux",
        initrd=data_dir / "kernels/initrd",
        tiny=data_dir / "kernels/tiny.elf",
        rootfs={name: data_dir / f"images/{name}.ext4" for name in templates},
        identity={name: _identity(built["initrd"], built[f"image-{name}"]) for name in templates},
    )
    targets = [images.vmlinux, images.initrd, images.tiny, *images.rootfs.values()]
    sources = [
        cache.folder(artefact) / target.name for artefact, target in zip(built.values(), targets, strict=True)
    ]
    if not all(map(is_published, sources, targets)):
        require_tools(*TOOLS)
        # Publishing needs the lock too: another installation's build may replace the artefact as soon as it is free.
        async with cache.lock():
            await _build(cache, Apt(suite, progress), envd, templates, progress)
            for source, target in zip(sources, targets, strict=True):
                await publish(source, target)
    return images


def plan(suite: str, envd: Path, templates: Sequence[str]) -> dict[str, Artefact]:
    kernel = kernels.artefact(suite)
    artefacts = [kernel, initrds.artefact(kernel.key, suite), tinies.artefact()]
    artefacts += [rootfses.image_artefact(name, suite, envd) for name in templates]
    return {artefact.kind: artefact for artefact in artefacts}


async def _build(cache: Cache, source: Apt, envd: Path, templates: Sequence[str], progress: Progress) -> None:
    """Two lanes, because mmdebstrap keeps one core busy."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_boot_files(cache, source, progress))
            group.create_task(_images(cache, source, envd, templates, progress))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


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


def main() -> None:
    """`python -m wrenn_server.images.build [ENVD]`: builds into WRENN_DATA_DIR, with builds/envd by default, by way of
    WRENN_CACHE_DIR."""
    data_dir = Path(os.environ.get("WRENN_DATA_DIR", "/var/lib/wrenn"))
    cache_dir = Path(os.environ.get("WRENN_CACHE_DIR", "/var/cache/wrenn"))
    envd = Path(sys.argv[1] if len(sys.argv) > 1 else "builds/envd")
    if not envd.is_file():
        sys.exit(f"there is no envd at {envd}: `make build-envd` makes it")
    try:
        asyncio.run(ensure_all(data_dir, envd, Lines(sys.stderr), cache_dir=cache_dir))
    except KeyboardInterrupt:
        sys.exit(130)
    except (UnsuitableHost, BadKernel, BadImage, CommandFailed, OSError) as error:
        sys.exit(f"building guest images failed: {error}")


if __name__ == "__main__":
    main()
