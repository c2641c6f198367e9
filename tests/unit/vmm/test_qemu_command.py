"""The command line is a contract with the snapshots that were made with it: a change here makes them unusable."""

from wrenn_server.hostagent.vmm.qemu_command import (
    Accel,
    Machine,
    command,
    kernel_args,
    machine_arguments,
)

MACHINE = Machine(accel=Accel.TCG, vcpus=2, memory_mb=512)

GOLDEN = r"""
qemu-system-x86_64
-name sbx
-accel tcg,thread=multi,tb-size=64
-object memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/7,share=off
-add-fd fd=4,set=4
-add-fd fd=5,set=5
-M microvm,acpi=on,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on,dump-guest-core=off,mem-merge=off,suppress-vmdesc=on,memory-backend=ram
-global migration.send-configuration=off
-cpu max
-smp 2
-m 512
-nodefaults -no-user-config
-display none
-no-reboot
-global virtio-mmio.force-legacy=false
-blockdev {"driver":"raw","node-name":"root","read-only":true,"discard":"ignore","cache":{"direct":false,"no-flush":true},"file":{"driver":"file","filename":"/dev/fdset/4","read-only":true}}
-device virtio-blk-device,drive=root
-blockdev {"driver":"raw","node-name":"overlay","read-only":false,"discard":"unmap","cache":{"direct":false,"no-flush":true},"file":{"driver":"file","filename":"/dev/fdset/5","discard":"unmap"}}
-device virtio-blk-device,drive=overlay
-netdev tap,id=net,fd=6
-device virtio-net-device,netdev=net,mac=06:00:ac:10:00:02
-object rng-builtin,id=rng
-device virtio-rng-device,rng=rng
-chardev stdio,id=console,signal=off
-serial chardev:console
-chardev socket,id=monitor,fd=3,server=on,wait=off
-mon chardev=monitor,mode=control
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-incoming defer
"""  # noqa: E501 - one option a line


def test_the_command_of_a_restore() -> None:
    argv = command("qemu-system-x86_64", "sbx", MACHINE, append=None)
    assert argv == GOLDEN.split()


def test_a_boot_has_a_kernel_and_its_own_shared_memory() -> None:
    argv = command("qemu", "sbx", MACHINE, append="quiet init=/x")
    assert argv[-6:] == [
        "-kernel", "/proc/self/fd/8", "-initrd", "/proc/self/fd/9", "-append", "quiet init=/x",
    ]  # fmt: skip
    assert "memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/7,share=on" in argv


def test_kvm_needs_no_emulated_timers() -> None:
    machine = Machine(accel=Accel.KVM, vcpus=1, memory_mb=128)
    words = machine_arguments(machine)
    assert words[words.index("-cpu") + 1] == "host"
    assert "pit=off,pic=off" in words[words.index("-M") + 1]
    assert "kvm" in command("qemu", "sbx", machine, append=None)


def test_nothing_of_one_vm_is_in_what_snapshots_are_compared_by() -> None:
    assert machine_arguments(MACHINE) == machine_arguments(Machine(accel=Accel.TCG, vcpus=2, memory_mb=512))
    assert not any("sbx" in word for word in machine_arguments(MACHINE))


def test_the_kernel_is_told_the_speed_of_the_clock_only_under_emulation() -> None:
    assert "tsc_early_khz=2600000" in kernel_args(Accel.TCG, 2_600_000).split()
    assert not any("tsc" in word for word in kernel_args(Accel.TCG, None).split())
    assert "mitigations=off" not in kernel_args(Accel.KVM, 2_600_000).split()


def test_only_emulated_guests_give_up_the_randomisation_of_addresses() -> None:
    assert "norandmaps" in kernel_args(Accel.TCG, None).split()
    assert "norandmaps" not in kernel_args(Accel.KVM, None).split()


def test_the_init_is_ours() -> None:
    assert kernel_args(Accel.KVM, None).split()[-1] == "init=/sbin/wrenn-init"
