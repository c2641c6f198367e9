"""QEMU's command line: a pure function of the machine, so that two runs agree on every device.

`-M microvm` is unversioned: a snapshot loads only into the same QEMU build with the same devices in the same
order. Everything a VM owns comes in as an inherited file descriptor with a fixed number, so the arguments are
equal for all VMs of one shape, and the VM's uid needs no right on any directory. Sources: QEMU
docs/system/i386/microvm.rst, docs/system/security.rst, qemu-options.hx.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from wrenn_server.hostagent.network.base import GUEST_MAC

CONSOLE, LOG, MONITOR, ROOT, OVERLAY, TAP, MEMORY, KERNEL, INITRD, DISK = range(1, 11)
"""The VM's file descriptors: guest console (stdout), QEMU's messages (stderr), listening QMP socket, drives… and the
directory in which an NBD server may listen, so that QEMU finds it again whoever runs it."""

ROOT_NODE, OVERLAY_NODE, LAZY_NODE = "root", "overlay", "overlay-lazy"
"""Names of the drives, and of what is under one that is still being filled."""
TB_CACHE_MB = 64
"""Translated code of an emulated guest. The default is a share of guest memory, which no small VM ever fills."""
OVERHEAD_MB = {"tcg": TB_CACHE_MB + 96, "kvm": 96}
"""What a QEMU process needs beside guest memory and what the cgroup therefore grants: about 45 MiB of its own,
migration buffers, page cache of the overlay, page tables; and the translated code."""


_RECONNECT = 1 << 30
"""Seconds after which QEMU gives an NBD server up: never."""


class Accel(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a snapshot depends on."""

    accel: Accel
    vcpus: int
    memory_mb: int


def kernel_args(accel: Accel, tsc_khz: int | None) -> str:
    """The guest kernel's command line.

    `reboot=t` (triple fault) and `panic=-1` end QEMU under -no-reboot. One boot in ten hung in the calibration of
    the TSC against an emulated PIT; `tsc_early_khz` spares the calibration.
    """
    words = ["console=ttyS0", "reboot=t", "panic=-1", "quiet", "net.ifnames=0", "random.trust_cpu=on"]
    if accel is Accel.TCG:
        words.append("mitigations=off")  # emulated CPUs do not speculate
        # Programs at the same addresses in every process: the emulator then finds the code of bash or python already
        # translated. Starting `true` takes a quarter of the time. The emulator is no boundary to rely on anyway.
        words.append("norandmaps")
        if tsc_khz is not None:
            words.append(f"tsc_early_khz={tsc_khz}")
    return " ".join([*words, "init=/sbin/wrenn-init"])


def machine_arguments(machine: Machine) -> list[str]:
    """The guest-visible part. Recorded with each snapshot and compared before a restore."""
    # pit and pic cannot go under TCG: the kernel then finds no timer.
    legacy = "on" if machine.accel is Accel.TCG else "off"
    # fmt: off
    return [
        "-M", f"microvm,acpi=on,x-option-roms=off,pit={legacy},pic={legacy},rtc=on,isa-serial=on,"
              "dump-guest-core=off,mem-merge=off,suppress-vmdesc=on,memory-backend=ram",
        # The two that make a bare device state (no memory, no description) loadable, see qemu_vm.py.
        "-global", "migration.send-configuration=off",
        "-cpu", "max" if machine.accel is Accel.TCG else "host",
        "-smp", str(machine.vcpus),
        "-m", str(machine.memory_mb),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-global", "virtio-mmio.force-legacy=false",
        "-blockdev", _json(_drive(ROOT_NODE, ROOT, read_only=True)),
        "-device", f"virtio-blk-device,drive={ROOT_NODE}",
        "-blockdev", _json(_drive(OVERLAY_NODE, OVERLAY, read_only=False)),
        "-device", f"virtio-blk-device,drive={OVERLAY_NODE}",
        "-netdev", f"tap,id=net,fd={TAP}",
        "-device", f"virtio-net-device,netdev=net,mac={GUEST_MAC}",
        "-object", "rng-builtin,id=rng",
        "-device", "virtio-rng-device,rng=rng",
        "-chardev", "stdio,id=console,signal=off",
        "-serial", "chardev:console",
    ]
    # fmt: on


def command(binary: str, name: str, machine: Machine, *, append: str | None) -> list[str]:
    """The whole command. `append` is the kernel's command line of a cold boot; None for a restore: the kernel is in the
    memory then, which is mapped copy-on-write, and QEMU waits for QMP `migrate-incoming`."""
    accel = "kvm" if machine.accel is Accel.KVM else f"tcg,thread=multi,tb-size={TB_CACHE_MB}"
    # fmt: off
    argv = [
        binary,
        "-name", name,
        "-accel", accel,
        "-object", _memory(machine.memory_mb, shared=append is not None),
        "-add-fd", f"fd={ROOT},set={ROOT}",
        "-add-fd", f"fd={OVERLAY},set={OVERLAY}",
        *machine_arguments(machine),
        "-chardev", f"socket,id=monitor,fd={MONITOR},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    # fmt: on
    if append is not None:
        return [*argv, "-kernel", _inherited(KERNEL), "-initrd", _inherited(INITRD), "-append", append]
    return [*argv, "-incoming", "defer"]


def _memory(size_mb: int, *, shared: bool) -> str:
    share = "on" if shared else "off"
    return f"memory-backend-file,id=ram,size={size_mb}M,mem-path={_inherited(MEMORY)},share={share}"


def _drive(node: str, fd: int, *, read_only: bool) -> dict[str, Any]:
    # Always raw: probing would let a guest turn its disk into a qcow2 with a backing file of the host. No flush:
    # the overlay must survive the VM, not the host; whoever keeps it syncs it.
    options: dict[str, Any] = {
        "driver": "raw",
        "node-name": node,
        "read-only": read_only,
        "discard": "ignore" if read_only else "unmap",
        "cache": {"direct": False, "no-flush": True},
        "file": {"driver": "file", "filename": f"/dev/fdset/{fd}", "discard": "unmap"},
    }
    if read_only:
        options["file"] = {"driver": "file", "filename": f"/dev/fdset/{fd}", "read-only": True}
    return options


def _json(options: dict[str, Any]) -> str:
    return json.dumps(options, separators=(",", ":"))


def lazy_arguments() -> tuple[dict[str, Any], dict[str, Any]]:
    """As `disk_arguments`, of the overlay and an NBD server in the directory DISK. While there is none, requests wait."""
    options = _drive(OVERLAY_NODE, OVERLAY, read_only=False)
    file = {
        "driver": "nbd",
        "node-name": LAZY_NODE,
        "server": {"type": "unix", "path": f"{_inherited(DISK)}/nbd"},
        "export": OVERLAY_NODE,
        "reconnect-delay": _RECONNECT,
        "cache": options["cache"],
    }
    return file, options | {"file": file["node-name"]}


def file_node(node: str) -> str:
    """Of `disk_arguments`."""
    return f"{node}-file"


def disk_arguments(node: str, fds: int, *, read_only: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """For a QEMU that waits: `blockdev-add` of the file in that set of descriptors, and what `blockdev-reopen` makes of
    the drive `node` then. As if it had been started with that file."""
    options = _drive(node, fds, read_only=read_only)
    file = options["file"] | {"node-name": file_node(node), "cache": options["cache"]}
    return file, options | {"file": file["node-name"]}


def _inherited(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
