"""The guests' kernel: Debian's cloud kernel as an uncompressed ELF, which Firecracker and QEMU both boot by PVH, and
the modules that the initial RAM disk loads."""

import bz2
import gzip
import lzma
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.images import apt
from wrenn_server.images.apt import Apt
from wrenn_server.images.cache import Artefact, Cache
from wrenn_server.images.progress import Progress
from wrenn_server.linux.process import run

STEP = "kernel"
BUILDER = "1"
PACKAGE = "linux-image-cloud-amd64"
# What a guest cannot boot without, or must have before a memory snapshot is taken of it.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net", "overlay", "virtio-rng", "virtio_balloon")

# Documentation/arch/x86/boot.rst: offsets in the setup header of a bzImage.
SETUP_SECTORS = 0x1F1
HEADER_MAGIC = 0x202
PAYLOAD_OFFSET = 0x248


class BadKernel(RuntimeError):
    """The package is not what we know how to unpack."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """`modules` holds `<name>.ko` files and `order`, their names one a line in the order to load them."""

    key: str
    vmlinux: Path
    modules: Path


def artefact(suite: str) -> Artefact:
    return Artefact(
        "kernel", {"builder": BUILDER, "package": PACKAGE, "suite": suite, "modules": " ".join(MODULES)}
    )


async def ensure_kernel(cache: Cache, source: Apt, progress: Progress) -> Kernel:
    """:raises BadKernel, CommandFailed, UnsuitableHost:"""
    wanted = artefact(source.suite)

    async def build(folder: Path) -> None:
        progress.start(STEP)
        with cache.scratch() as scratch:
            await _build(folder, scratch, source, progress)
        progress.done(STEP)

    folder = await cache.get(wanted, build)
    return Kernel(wanted.key, folder / "vmlinux", folder / "modules")


async def _build(folder: Path, scratch: Path, source: Apt, progress: Progress) -> None:
    meta = await source.download(PACKAGE, scratch, STEP)
    deb = await source.download(versioned_package(await apt.depends(meta)), scratch, STEP)
    progress.line(STEP, f"unpacking {deb.name}")
    tree = await apt.unpack(deb, scratch / "tree")

    [image] = (tree / "boot").glob("vmlinuz-*")
    await decompress(payload(image.read_bytes()), scratch, folder / "vmlinux")

    # The package may lie under /lib or, where these are one, under /usr/lib.
    [release] = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
    modules = {
        path.name.partition(".ko")[0].replace("-", "_"): path
        for path in release.rglob("*.ko*")
        if path.is_file()
    }
    built_in = {
        Path(line).name.removesuffix(".ko").replace("-", "_")
        for line in (release / "modules.builtin").read_text().splitlines()
    }
    (folder / "modules").mkdir()
    depends: dict[str, list[str]] = {}
    contents: dict[str, bytes] = {}
    waiting = [name.replace("-", "_") for name in MODULES]
    while waiting:
        name = waiting.pop()
        if name in built_in or name in contents:
            continue
        if name not in modules:
            raise BadKernel(f"{deb.name} has no module {name}")
        contents[name] = _module(modules[name])
        depends[name] = [found for found in module_depends(contents[name]) if found not in built_in]
        waiting += depends[name]
    order = load_order([name.replace("-", "_") for name in MODULES], depends)
    for name in order:
        (folder / "modules" / f"{name}.ko").write_bytes(contents[name])
    (folder / "modules" / "order").write_text("".join(f"{name}.ko\n" for name in order))
    (folder / "package").write_text(deb.name + "\n")


def versioned_package(depends: str) -> str:
    """The package with the kernel itself, from the `Depends` of the one that follows it."""
    found = re.match(r"linux-image-[0-9][a-z0-9.+-]*-cloud-amd64", depends)
    if found is None:
        raise BadKernel(f"{PACKAGE} depends on {depends.strip()!r}, which names no kernel")
    return found.group()


def payload(bzimage: bytes) -> bytes:
    """The compressed kernel inside a bzImage."""
    if bzimage[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        raise BadKernel("vmlinuz is not a bzImage")
    offset, length = struct.unpack_from("<II", bzimage, PAYLOAD_OFFSET)
    start = (bzimage[SETUP_SECTORS] + 1) * 512 + offset
    return bzimage[start : start + length]


async def decompress(compressed: bytes, scratch: Path, target: Path) -> None:
    # All formats but gzip, which has a length of its own, are followed by the length of the result.
    packed, (size,) = compressed[:-4], struct.unpack("<I", compressed[-4:])
    if compressed.startswith(b"\x1f\x8b"):
        target.write_bytes(zlib.decompressobj(wbits=31).decompress(compressed))
    elif compressed.startswith(b"\xfd7zXZ\0"):
        target.write_bytes(lzma.decompress(packed))
    elif compressed.startswith(b"BZh"):
        target.write_bytes(bz2.decompress(packed))
    elif compressed.startswith((b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd")):
        tool = "lz4" if compressed.startswith(b"\x02") else "zstd"
        apt.require_tools((tool, tool))  # which one depends on the release
        source = scratch / f"vmlinux.{tool}"
        source.write_bytes(packed)
        await run(
            [tool, "-d", "-q", "-f", str(source), "-o", str(target)]
            if tool == "zstd"
            else [tool, "-d", "-q", "-f", str(source), str(target)]
        )
    else:
        raise BadKernel(f"the kernel is compressed in a way we do not know: {compressed[:8].hex()}")
    with target.open("rb") as file:
        magic = file.read(4)
    if magic != b"\x7fELF" or target.stat().st_size != size:
        raise BadKernel(
            f"unpacking the kernel gave {target.stat().st_size} bytes that are not the ELF we expect"
        )


def _module(path: Path) -> bytes:
    """Busybox's insmod takes plain modules; some releases ship compressed ones."""
    content = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(content)
        case ".gz":
            return gzip.decompress(content)
        case ".ko":
            return content
        case other:
            raise BadKernel(f"{path.name} is compressed in a way we do not know: {other}")


def module_depends(module: bytes) -> list[str]:
    """The modules that must be loaded before this one, from its .modinfo section."""
    found = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [name.replace("-", "_") for name in found.group(1).decode().split(",") if name] if found else []


def load_order(wanted: list[str], depends: Mapping[str, list[str]]) -> list[str]:
    """The wanted modules and what they need, each after its own needs. Modules that `depends` does not know are
    built into the kernel."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in depends and name not in order:
            for needed in depends[name]:
                add(needed)
            order.append(name)

    for name in wanted:
        add(name)
    return order
