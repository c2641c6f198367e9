"""AGENT_VMM against what a host can do."""

from pathlib import Path

import pytest

from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.hostagent.vmm.choice import Binaries, choose
from wrenn_server.hostagent.vmm.qemu_command import Accel
from wrenn_server.linux import kvm
from wrenn_server.linux.kvm import Facts, Verdict

GOOD = Verdict(usable=True, reason="a guest ran")
BAD = Verdict(usable=False, reason="no /dev/kvm")
BOTH = Binaries(firecracker=Path("/f"), jailer=Path("/j"))


@pytest.mark.parametrize(
    ("wanted", "verdict", "binaries", "driver", "accel"),
    [
        ("auto", GOOD, BOTH, "firecracker", Accel.KVM),
        ("auto", GOOD, None, "qemu", Accel.KVM),
        ("auto", BAD, BOTH, "qemu", Accel.TCG),
        ("auto", BAD, None, "qemu", Accel.TCG),
        ("qemu", GOOD, BOTH, "qemu", Accel.KVM),
        ("qemu", BAD, BOTH, "qemu", Accel.TCG),
        ("firecracker", GOOD, BOTH, "firecracker", Accel.KVM),
    ],
)
def test_the_choice(
    wanted: str, verdict: Verdict, binaries: Binaries | None, driver: str, accel: Accel
) -> None:
    choice = choose(wanted, verdict, binaries)
    assert (choice.driver, choice.accel) == (driver, accel)
    assert choice.isolates is (accel is Accel.KVM)
    if accel is Accel.TCG:
        assert "no /dev/kvm" in choice.why


@pytest.mark.parametrize(
    ("wanted", "verdict", "binaries", "message"),
    [
        ("firecracker", BAD, BOTH, "no /dev/kvm"),
        ("firecracker", GOOD, None, "not on PATH"),
        ("xen", GOOD, BOTH, "expected auto, firecracker or qemu"),
    ],
)
def test_what_cannot_be(wanted: str, verdict: Verdict, binaries: Binaries | None, message: str) -> None:
    with pytest.raises(VmmError, match=message):
        choose(wanted, verdict, binaries)


@pytest.mark.parametrize(
    ("facts", "usable", "reason"),
    [
        (Facts(frozenset({"kvm_intel"}), None), True, "kvm_intel"),
        (Facts(frozenset({"kvm_amd"}), None), True, "kvm_amd"),
        (Facts(frozenset({"kvm_pvm"}), None), False, "kvm_pvm"),
        (Facts(frozenset({"kvm_pvm", "kvm_intel"}), None), False, "kvm_pvm"),
        (Facts(frozenset(), None), False, "neither"),
        (Facts(frozenset({"kvm_intel"}), "lacks IRQFD"), False, "lacks IRQFD"),
    ],
)
def test_the_verdict(facts: Facts, usable: bool, reason: str) -> None:
    verdict = kvm.judge(facts)
    assert verdict.usable is usable
    assert reason in verdict.reason


def test_a_verdict_is_kept_for_one_boot_vmm_and_kernel(tmp_path: Path) -> None:
    file = tmp_path / "run/kvm.json"
    assert kvm.remembered(file, "boot-1 sha") is None
    kvm.remember(file, "boot-1 sha", GOOD)
    assert kvm.remembered(file, "boot-1 sha") == GOOD
    assert kvm.remembered(file, "boot-2 sha") is None
    file.write_text("{")
    assert kvm.remembered(file, "boot-1 sha") is None


def test_a_device_that_is_none_is_told(tmp_path: Path) -> None:
    assert "No such file" in str(kvm.examine(tmp_path / "kvm", tmp_path).problem)
    assert "Inappropriate ioctl" in str(kvm.examine(Path("/dev/null"), tmp_path).problem)


def test_the_group_of_the_device(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o666)
    assert kvm.group(device) == ()
    device.chmod(0o600)
    with pytest.raises(kvm.KvmRefused, match="chgrp kvm"):
        kvm.group(device)
