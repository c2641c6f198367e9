"""The kernel, initial RAM disk and root file system that we build, booted for real under software emulation."""

import asyncio
import http.client
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wrenn_server.images import ext4
from wrenn_server.images.build import TEMPLATES, ensure_all
from wrenn_server.images.progress import Silent
from wrenn_server.images.rootfs import ENVD, EPOCH
from wrenn_server.up.settings import CACHE_DIR

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]
SCRATCH = shutil.ignore_patterns("tmp-*")
"""Another installation may be building in the same cache."""
BOOT_SECONDS = 60.0
MKE2FS = shutil.which("mke2fs", path="/usr/sbin:/sbin") or "mke2fs"
DEBUGFS = shutil.which("debugfs", path="/usr/sbin:/sbin") or "debugfs"

MOUNTS = {
    "/proc": "proc",
    "/sys": "sysfs",
    "/sys/fs/cgroup": "cgroup2",
    "/dev": "devtmpfs",
    "/dev/pts": "devpts",
    "/dev/shm": "tmpfs",
    "/run": "tmpfs",
    "/var/lib/docker": "ext4",
    "/var/lib/containerd": "ext4",
}

# Runs in the guest in the place of envd, as PID 1. Every line it prints is `name=value`; its end is the VM's end.
PROBE = """#!/bin/bash
tell() { local name=$1; shift; echo "$name=$("$@" 2>&1 | tr '\\n' ' ')"; }
tell pid echo $$
tell root awk '$2 == "/" { print $3, $4 }' /proc/mounts
tell mounts awk '{ print $2 ":" $3 }' /proc/mounts
tell controllers cat /sys/fs/cgroup/cgroup.subtree_control
tell hostname hostname
tell address ip -4 -o addr show dev eth0
tell route ip route show default
tell neighbour ip neigh show dev eth0
tell loopback ip -o addr show dev lo
tell resolv cat /etc/resolv.conf
tell machine_id cat /etc/machine-id
tell tmp stat -c %a /tmp
tell run ls /run
tell dev ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr
tell files sh -c 'ulimit -Hn'
tell user id user
tell sudo su user -c 'cd && sudo -n id -un && pwd'
tell locale locale charmap
tell python su user -c 'python -c "import ssl, sqlite3, venv, zoneinfo; print(ssl.get_default_verify_paths().cafile)"'
tell python3 su user -c 'python3 --version'
tell pip pip --version
tell git git --version
tell curl curl --version
tell tput tput -T xterm colors
tell xattr python3 -c '
import os
for path in ("/home/user/new", "/usr/bin/env"):
    open(path, "a").close()
    os.setxattr(path, "user.wrenn", b"1")
    print(os.listxattr(path))'
tell rename sh -c 'mv /usr/share/git-core /usr/share/moved && ls -d /usr/share/moved'
tell chown sh -c 'chown -R user /usr/share/moved && stat -c %U /usr/share/moved/templates'
tell docker stat -f -c %T /var/lib/docker /var/lib/containerd
tell one_device sh -c 'stat -c %d / /etc/passwd /home/user/new | sort -u | wc -l'
tell compiled python3 -B -c '
import importlib.util, json, os, struct
source = json.__file__
header = open(importlib.util.cache_from_source(source), "rb").read(16)
print(struct.unpack("<I", header[8:12])[0] == int(os.stat(source).st_mtime))'
sync
"""


@contextmanager
def guest(images: Path, *disks: str, network: str) -> Generator[subprocess.Popen[bytes]]:
    """A running VM, its serial port on the process's stdout. `disks` are options of -drive."""
    khz = re.search(r"cpu MHz\s*: (\d+)\.(\d{3})", Path("/proc/cpuinfo").read_text())
    assert khz is not None
    kernel_args = (
        "console=ttyS0 reboot=t panic=-1 quiet net.ifnames=0 mitigations=off random.trust_cpu=on "
        f"tsc_early_khz={khz.group(1)}{khz.group(2)} init=/sbin/wrenn-init"
    )
    argv = [
        *shlex.split(
            "qemu-system-x86_64 -M microvm,acpi=on,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on"
            " -accel tcg,tb-size=128 -cpu max -smp 1 -m 512 -nodefaults -no-user-config -display none -no-reboot"
            " -global virtio-mmio.force-legacy=false -serial stdio"
        ),
        *("-kernel", str(images / "kernels/vmlinux"), "-initrd", str(images / "kernels/initrd")),
        *("-append", kernel_args, "-netdev", network),
        *("-device", "virtio-net-device,netdev=n0,mac=06:00:ac:10:00:02"),
    ]
    for number, disk in enumerate(disks):
        argv += [
            "-drive",
            f"id=d{number},format=raw,if=none,{disk}",
            "-device",
            f"virtio-blk-device,drive=d{number}",
        ]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as vm:
        try:
            yield vm
        finally:
            vm.kill()


# User-mode network without a way out. Its gateway has the address that guests expect.
NETWORK = (
    "user,id=n0,restrict=on,net=169.254.0.0/24,host=169.254.0.22,dns=169.254.0.3,dhcpstart=169.254.0.100"
)


def base_disk(image: Path) -> str:
    return f"file={image},readonly=on"


def overlay_disk(folder: Path) -> str:
    image = folder / "overlay.ext4"
    image.touch()
    os.truncate(image, 1 << 30)
    subprocess.run([MKE2FS, "-q", "-F", "-t", "ext4", "-L", "wrenn-overlay", str(image)], check=True)
    return f"file={image},cache=unsafe"


@pytest.fixture(scope="module")
def probed(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the probe says of the inside of a guest: one boot for all tests that ask."""
    folder = tmp_path_factory.mktemp("probed")
    image, probe = folder / "minimal.ext4", folder / "probe"
    subprocess.run(
        ["cp", "--sparse=always", str(guest_images / "images/minimal.ext4"), str(image)], check=True
    )
    probe.write_text(PROBE)
    asyncio.run(ext4.put(image, {ENVD: probe}, epoch=EPOCH))
    with guest(guest_images, base_disk(image), overlay_disk(folder), network=NETWORK) as vm:
        output = vm.communicate(timeout=120)[0].decode(errors="replace")
    image.unlink()
    lines = (line.rstrip() for line in output.splitlines())
    said = dict(line.split("=", 1) for line in lines if re.match(r"[a-z0-9_]+=", line))
    assert "compiled" in said, output
    return said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pid", r"1"),
        ("root", r"overlay rw,.*redirect_dir=on.*metacopy=on.*"),
        *(("mounts", rf".*{path}:{kind}\b.*") for path, kind in MOUNTS.items()),
        *(("controllers", rf".*\b{controller}\b.*") for controller in ("memory", "pids", "cpu", "io")),
        ("hostname", r"wrenn"),
        ("address", r".*inet 169\.254\.0\.21/30 .*"),
        ("route", r"default via 169\.254\.0\.22 dev eth0.*"),
        ("neighbour", r"169\.254\.0\.22 lladdr 06:00:ac:10:00:fe PERMANENT.*"),
        ("loopback", r".*127\.0\.0\.1/8.*::1/128.*"),
        ("resolv", r"nameserver 1\.1\.1\.1 nameserver 8\.8\.8\.8"),
        ("machine_id", r""),
        ("tmp", r"1777"),
        ("run", r"lock"),
        ("dev", r"(?=.*/dev/fd -> /proc/self/fd )(?=.*/dev/stderr -> /proc/self/fd/2).*"),
        ("files", r"1048576"),
        ("user", r"uid=1000\(user\) gid=1000\(user\) .*"),
        ("sudo", r"root /home/user"),
        ("locale", r"UTF-8"),
        ("python", r"/.*/cert\.pem"),
        ("python3", r"Python 3\.\d+\..*"),
        ("pip", r"pip \d.*"),
        ("git", r"git version .*"),
        ("curl", r"curl .*https.*"),
        ("tput", r"8"),
        ("xattr", r"\['user\.wrenn'\] \['user\.wrenn'\]"),
        ("rename", r"/usr/share/moved"),
        ("chown", r"user"),
        ("docker", r"ext2/ext3 ext2/ext3"),
        ("one_device", r"1"),
        ("compiled", r"True"),
    ],
)
def test_inside(probed: dict[str, str], name: str, expected: str):
    assert re.fullmatch(expected, probed[name].strip()), probed[name]


@pytest.mark.parametrize("template", TEMPLATES)
def test_envd_answers(
    guest_images: Path, template: str, tmp_path: Path, record_property: Callable[[str, object], None]
):
    """With the disks the other way round, because only their labels count."""
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    forward = f"{NETWORK},hostfwd=tcp:127.0.0.1:{port}-169.254.0.21:49983"
    disks = overlay_disk(tmp_path), base_disk(guest_images / f"images/{template}.ext4")
    started = time.monotonic()
    with guest(guest_images, *disks, network=forward) as vm:
        status = health(vm, port, deadline=started + BOOT_SECONDS)
        record_property("boot_seconds", round(time.monotonic() - started, 2))
        assert status == 204
        vm.kill()
        output = vm.communicate()[0].decode(errors="replace")
    assert "wrenn-init:" not in output
    assert "wrenn-initrd:" not in output


def health(vm: subprocess.Popen[bytes], port: int, *, deadline: float) -> int:
    """The status of GET /health, asked again until the guest takes connections: nothing tells of that moment."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            assert vm.poll() is None, f"the VM ended: {vm.communicate()[0].decode(errors='replace')}"
            assert time.monotonic() < deadline, "no answer in time"
            time.sleep(0.02)
        finally:
            connection.close()


@pytest.mark.parametrize(
    ("label", "complaint"),
    [
        ("wrenn-overlay", "wrenn-initrd: no disk with the label wrenn-root"),
        ("wrenn-root", "wrenn-initrd: no disk with the label wrenn-overlay"),
    ],
)
def test_a_missing_disk_is_told_and_ends_the_vm(
    guest_images: Path, label: str, complaint: str, tmp_path: Path
):
    disk = (
        overlay_disk(tmp_path)
        if label == "wrenn-overlay"
        else base_disk(guest_images / "images/minimal.ext4")
    )
    with guest(guest_images, disk, network=NETWORK) as vm:
        output = vm.communicate(timeout=60)[0].decode(errors="replace")
    assert complaint in output
    assert vm.returncode == 0


def test_nothing_to_do_takes_no_time(guest_images: Path, envd_binary: Path, tmp_path: Path):
    """No network either: apt is not even asked."""
    data_dir, cache_dir, progress = tmp_path / "data", tmp_path / "cache", Steps()
    envd = Path(shutil.copy(envd_binary, tmp_path))  # a developer may build another one at any time
    shutil.copytree(CACHE_DIR, cache_dir, copy_function=link_or_copy, ignore=SCRATCH)
    asyncio.run(ensure_all(data_dir, envd, Silent(), cache_dir=cache_dir))
    before = {path: path.stat().st_ino for path in data_dir.glob("*/*")}
    started = time.monotonic()
    images = asyncio.run(ensure_all(data_dir, envd, progress, cache_dir=cache_dir))
    assert time.monotonic() - started < 1
    assert progress.steps == []
    assert before == {path: path.stat().st_ino for path in data_dir.glob("*/*")}
    assert {images.vmlinux, images.initrd, images.tiny, *images.rootfs.values()} == {*before}


def link_or_copy(source: str, target: str) -> str:
    """The temporary directory may be on another file system than the cache."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


class Steps(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def start(self, step: str, total: int | None = None) -> None:
        self.steps.append(step)


def test_a_new_envd_rebuilds_no_packages(guest_images: Path, envd_binary: Path, tmp_path: Path):
    newer = tmp_path / "envd"
    newer.write_bytes(envd_binary.read_bytes() + b"newer")
    data_dir, progress = tmp_path / "data", Steps()
    shutil.copytree(CACHE_DIR, data_dir / "cache", copy_function=link_or_copy, ignore=SCRATCH)
    images = asyncio.run(ensure_all(data_dir, newer, progress))  # with the cache in its usual place
    assert progress.steps == ["minimal image"]
    argv = [DEBUGFS, "-R", f"cat {ENVD}", str(images.rootfs["minimal"])]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == newer.read_bytes()


def test_the_tiny_guest_counts_and_quits(guest_images: Path):
    argv = shlex.split(
        "qemu-system-x86_64 -M microvm,x-option-roms=off,isa-serial=on -accel tcg -m 64M -nodefaults -no-user-config"
        f" -display none -no-reboot -serial stdio -append 'hello from the test' -kernel {guest_images}/kernels/tiny.elf"
    )
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        try:
            lines = [vm.stdout.readline().decode().strip() for _ in range(4)]
            assert lines[0] == "TINY-PVH cmdline=hello from the test"
            assert lines[1:] == ["tick 00000001", "tick 00000002", "tick 00000003"]
            vm.stdin.write(b"q")
            vm.stdin.close()
            assert vm.stdout.read().endswith(b"bye\n")
            assert vm.wait(10) == 0
        finally:
            vm.kill()
