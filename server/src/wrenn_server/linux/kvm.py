"""Can this host run Linux guests with KVM? Proven by running one, not by `/dev/kvm` being there.

A KVM without hardware support (`kvm_pvm`) opens, has all capabilities and runs small guests, but Linux dies in it
after half a minute. Sources: Documentation/virt/kvm/api.rst; Intel SDM vol. 3 for the real-mode guest.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import msgspec

DEVICE = Path("/dev/kvm")
SYS_MODULE = Path("/sys/module")

_GET_API_VERSION, _CREATE_VM, _CHECK_EXTENSION, _GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE03, 0xAE04
_CREATE_VCPU, _RUN, _SET_USER_MEMORY_REGION = 0xAE41, 0xAE80, 0x4020AE46
_SET_REGS, _GET_SREGS, _SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
_SET_TSS_ADDR = 0xAE47
_API_VERSION = 12
_EXIT_IO, _EXIT_HLT = 2, 5
NEEDED = {
    "IRQCHIP": 0, "USER_MEMORY": 3, "SET_TSS_ADDR": 4, "EXT_CPUID": 7, "MP_STATE": 14, "IRQFD": 32, "PIT2": 33,
    "PIT_STATE2": 35, "IOEVENTFD": 36, "ADJUST_CLOCK": 39, "VCPU_EVENTS": 41, "DEBUGREGS": 50, "XSAVE": 55,
    "XCRS": 56,
}  # fmt: skip
"""What Firecracker asks of KVM_CHECK_EXTENSION."""

# mov dx, 0x3f8; mov al, 'W'; out dx, al; hlt
_GUEST = bytes.fromhex("baf803 b057 ee f4")
_GUEST_ADDRESS = 0x1000


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    usable: bool
    """For Linux guests."""
    reason: str
    """Why not; or what has been proven."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cheap checks found; `problem` is None where a small guest ran."""

    modules: frozenset[str]
    problem: str | None


def judge(facts: Facts) -> Verdict:
    """Pure: the verdict over the checks that take milliseconds."""
    if facts.problem is not None:
        return Verdict(usable=False, reason=facts.problem)
    if "kvm_pvm" in facts.modules:
        return Verdict(
            usable=False,
            reason="/dev/kvm is kvm_pvm: it runs small guests, but Linux dies in it after seconds",
        )
    if not facts.modules & {"kvm_intel", "kvm_amd"}:
        return Verdict(usable=False, reason="neither kvm_intel nor kvm_amd is loaded")
    return Verdict(usable=True, reason="a guest ran under " + "/".join(sorted(facts.modules)))


def examine(device: Path = DEVICE, sys_module: Path = SYS_MODULE) -> Facts:
    """Opens the device, asks for capabilities and runs seven bytes in real mode. Blocks for some milliseconds."""
    modules = frozenset(name for name in ("kvm_intel", "kvm_amd", "kvm_pvm") if (sys_module / name).exists())
    try:
        _run_guest(device)
    except OSError as error:
        return Facts(modules, f"{device}: {error.strerror or error}")
    except KvmRefused as error:
        return Facts(modules, f"{device}: {error}")
    return Facts(modules, None)


def group(device: Path = DEVICE) -> tuple[int, ...]:
    """The groups that an unprivileged process must be in to use the device; none when everybody may.

    :raises KvmRefused: only root may; membership in root's group is nothing to hand to a VM.
    """
    found = os.stat(device)
    if found.st_mode & 0o006 == 0o006:
        return ()
    if found.st_mode & 0o060 != 0o060 or found.st_gid == 0:
        raise KvmRefused(
            f"only root may open {device}; make it usable: chgrp kvm {device} && chmod 660 {device}"
        )
    return (found.st_gid,)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class KvmRefused(Exception):
    """KVM is there but does not do what a VMM needs."""


def _run_guest(device: Path) -> None:
    with contextlib.ExitStack() as stack:

        def owned(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        kvm = owned(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        version = fcntl.ioctl(kvm, _GET_API_VERSION, 0)
        if version != _API_VERSION:
            raise KvmRefused(f"API version {version} instead of {_API_VERSION}")
        missing = [name for name, number in NEEDED.items() if fcntl.ioctl(kvm, _CHECK_EXTENSION, number) <= 0]
        if missing:
            raise KvmRefused(f"lacks {', '.join(missing)}")

        vm = owned(fcntl.ioctl(kvm, _CREATE_VM, 0))
        fcntl.ioctl(
            vm, _SET_TSS_ADDR, 0x7FFBD000
        )  # three free pages; Python's ioctl takes no more than 31 bits
        memory = stack.enter_context(mmap.mmap(-1, mmap.PAGESIZE))
        memory.write(_GUEST)
        anchor = ctypes.c_char.from_buffer(memory)
        region = struct.pack("IIQQQ", 0, 0, _GUEST_ADDRESS, mmap.PAGESIZE, ctypes.addressof(anchor))
        del anchor  # the mapping cannot be closed while somebody points into it
        fcntl.ioctl(vm, _SET_USER_MEMORY_REGION, region)

        vcpu = owned(fcntl.ioctl(vm, _CREATE_VCPU, 0))
        size = fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0)
        run = stack.enter_context(mmap.mmap(vcpu, size, mmap.MAP_SHARED))
        sregs = bytearray(312)
        fcntl.ioctl(vcpu, _GET_SREGS, sregs)
        struct.pack_into("Q", sregs, 0, 0)  # cs.base
        struct.pack_into("H", sregs, 12, 0)  # cs.selector
        fcntl.ioctl(vcpu, _SET_SREGS, bytes(sregs))
        # 16 general registers, then rip and rflags (bit 1 is always set)
        fcntl.ioctl(vcpu, _SET_REGS, struct.pack("16QQQ", *[0] * 16, _GUEST_ADDRESS, 2))
        _expect(_run(vcpu, run), _EXIT_IO, "the guest's output")
        offset = struct.unpack_from("Q", run, 40)[0]  # kvm_run.io.data_offset
        if run[offset : offset + 1] != b"W":
            raise KvmRefused("the guest's output is wrong")
        _expect(_run(vcpu, run), _EXIT_HLT, "the guest's halt")


def _run(vcpu: int, run: mmap.mmap) -> int:
    fcntl.ioctl(vcpu, _RUN, 0)
    return struct.unpack_from("I", run, 8)[0]  # kvm_run.exit_reason


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise KvmRefused(f"exit reason {found} instead of {wanted} for {what}")


class Cached(msgspec.Struct, frozen=True):
    key: str
    verdict: Verdict


def remembered(file: Path, key: str) -> Verdict | None:
    """The verdict that was kept for the same boot, VMM and kernel."""
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=Cached)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return kept.verdict if kept.key == key else None


def remember(file: Path, key: str, verdict: Verdict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.encode(Cached(key, verdict)))
    fresh.rename(file)
