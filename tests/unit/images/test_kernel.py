import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from wrenn_server.images import kernel
from wrenn_server.images.kernel import BadKernel, load_order, module_depends, payload, versioned_package

ELF = b"\x7fELF" + bytes(range(256)) * 64


def bzimage(compressed: bytes, setup_sectors: int = 4, offset: int = 48) -> bytes:
    start = (setup_sectors + 1) * 512 + offset
    image = bytearray(start) + compressed + b"rest of the image"
    image[0x1F1] = setup_sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, offset, len(compressed))
    return bytes(image)


def with_size(compressed: bytes) -> bytes:
    return compressed + struct.pack("<I", len(ELF))


def tool(*argv: str) -> bytes:
    return subprocess.run(argv, input=ELF, capture_output=True, check=True).stdout


PACKERS = {
    "gzip": lambda: gzip.compress(ELF),
    "xz": lambda: with_size(lzma.compress(ELF)),
    "lz4": lambda: with_size(tool("lz4", "-l", "-c")),
    "zstd": lambda: with_size(tool("zstd", "-c")),
}


@pytest.mark.parametrize("name", PACKERS)
async def test_the_kernel_in_a_bzimage(tmp_path: Path, name: str):
    compressed = PACKERS[name]()
    assert payload(bzimage(compressed)) == compressed
    await kernel.decompress(compressed, tmp_path, tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == ELF


@pytest.mark.parametrize(
    "compressed",
    [
        pytest.param(b"\0" * 64, id="unknown format"),
        pytest.param(gzip.compress(b"MZ no ELF"), id="not an ELF"),
        pytest.param(lzma.compress(ELF) + struct.pack("<I", 7), id="wrong size"),
    ],
)
async def test_what_is_not_a_kernel_is_refused(tmp_path: Path, compressed: bytes):
    with pytest.raises(BadKernel):
        await kernel.decompress(compressed, tmp_path, tmp_path / "vmlinux")


def test_what_is_not_a_bzimage_is_refused():
    with pytest.raises(BadKernel, match="bzImage"):
        payload(ELF)


@pytest.mark.parametrize(
    ("depends", "package"),
    [
        ("linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n", "linux-image-6.1.0-56-cloud-amd64"),
        ("linux-image-6.12.41+deb13-cloud-amd64 (= 6.12.41-1), x", "linux-image-6.12.41+deb13-cloud-amd64"),
    ],
)
def test_the_package_behind_the_meta_package(depends: str, package: str):
    assert versioned_package(depends) == package


@pytest.mark.parametrize(
    "depends", ["", "linux-image-amd64", "initramfs-tools, linux-image-6.1.0-1-cloud-amd64"]
)
def test_a_meta_package_without_a_kernel(depends: str):
    with pytest.raises(BadKernel):
        versioned_package(depends)


def test_depends_of_a_module():
    assert module_depends(b"x\0license=GPL\0depends=net-failover,virtio_ring\0intree=Y\0") == [
        "net_failover",
        "virtio_ring",
    ]
    assert module_depends(b"\0depends=\0") == []
    assert module_depends(b"no section") == []


def test_each_module_is_loaded_once_and_after_its_needs():
    depends = {
        "net": ["failover_net", "virtio"],
        "failover_net": ["failover"],
        "failover": [],
        "virtio": [],
        "blk": ["virtio"],
    }
    assert load_order(["blk", "net", "built_in"], depends) == [
        "virtio",
        "blk",
        "failover",
        "failover_net",
        "net",
    ]
