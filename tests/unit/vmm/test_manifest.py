"""A snapshot is loaded only by what made it."""

from pathlib import Path

import pytest

from wrenn_server.hostagent.vmm.manifest import Manifest, ManifestError

MACHINE = ["-smp", "1"]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    (tmp_path / "state").write_bytes(b"12345")
    Manifest.describe(tmp_path, ["state"], driver="qemu", version="7.2.22", machine=MACHINE).write(tmp_path)
    return tmp_path


def test_what_was_written_is_read(snapshot: Path) -> None:
    manifest = Manifest.read(snapshot)
    manifest.check(driver="qemu", version="7.2.22", machine=MACHINE)
    assert manifest.sizes == {"state": 5}


@pytest.mark.parametrize(
    ("driver", "version", "machine", "message"),
    [
        ("firecracker", "7.2.22", MACHINE, "made by the qemu driver, this is firecracker"),
        ("qemu", "8.0.0", MACHINE, r"made by qemu 7\.2\.22, this is 8\.0\.0"),
        ("qemu", "7.2.22", ["-smp", "2"], r"the machine differs: it has \['1'\], wanted is \['2'\]"),
        ("qemu", "7.2.22", ["1", "-smp"], "the machine differs"),
    ],
)
def test_a_difference_is_named(
    snapshot: Path, driver: str, version: str, machine: list[str], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        Manifest.read(snapshot).check(driver=driver, version=version, machine=machine)


def test_an_unfinished_snapshot_is_none(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="never finished"):
        Manifest.read(tmp_path)


def test_files_must_be_complete(snapshot: Path) -> None:
    (snapshot / "state").write_bytes(b"1234")
    with pytest.raises(ManifestError, match="state has 4 bytes instead of 5"):
        Manifest.read(snapshot)
    (snapshot / "state").write_bytes(b"12346")
    with pytest.raises(ManifestError, match="state is damaged"):
        Manifest.read(snapshot)
    (snapshot / "state").unlink()
    with pytest.raises(ManifestError, match="state is missing"):
        Manifest.read(snapshot)


def test_damage_is_told(snapshot: Path) -> None:
    (snapshot / "vmm.json").write_text('{"driver": 1}')
    with pytest.raises(ManifestError, match="damaged"):
        Manifest.read(snapshot)
