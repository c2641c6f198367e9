"""The jail on disk: what goes in stays whose it was, what comes out is what it seems."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrenn_server.hostagent.vmm.base import Place, VmmError
from wrenn_server.hostagent.vmm.jailer import MEMORY_OUT, ROOT, STATE_OUT, Jail

UID = 57_123


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Jail]:
    if os.geteuid() != 0:
        pytest.skip("changing owners needs root")
    directory = tmp_path / "vm"
    directory.mkdir()
    place = Place(
        id="sb1",
        directory=directory,
        uid=UID,
        gid=UID,
        netns=Path("/run/netns/n"),
        tap="vmtap0",
        cgroup="c/sb1",
    )
    jail = Jail(place, Path("/opt/firecracker"))
    jail.make()
    yield jail
    jail.remove()


def test_the_jailers_command() -> None:
    place = Place(
        id="sb1",
        directory=Path("/vms/sb1"),
        uid=7,
        gid=8,
        netns=Path("/run/netns/n"),
        tap="vmtap0",
        cgroup="c/sb1",
    )
    jail = Jail(place, Path("/opt/firecracker"))
    assert " ".join(jail.argv(Path("/opt/jailer"), file_size=123)) == (
        "/opt/jailer --id sb1 --exec-file /opt/firecracker --uid 7 --gid 8 --chroot-base-dir /vms/sb1 "
        "--netns /run/netns/n --new-pid-ns --resource-limit fsize=123 -- "
        "--api-sock /run/api.sock --log-path /log --level Info"
    )
    assert jail.path(ROOT) == Path("/vms/sb1/firecracker/sb1/root/rootfs")


def test_a_given_file_stays_whose_it_was(jail: Jail, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_text("image")
    image.chmod(0o444)
    jail.give(image, ROOT, read_only=True)
    inside = jail.path(ROOT).stat()
    assert (inside.st_ino, inside.st_uid, inside.st_mode & 0o777) == (
        image.stat().st_ino,
        os.geteuid(),
        0o444,
    )
    jail.remove()
    assert image.read_text() == "image"
    assert image.stat().st_nlink == 1


def test_what_firecracker_wrote_becomes_roots(jail: Jail, tmp_path: Path) -> None:
    os.close(jail.create(STATE_OUT))
    jail.path(STATE_OUT).write_bytes(b"state")
    target = tmp_path / "state"
    jail.take(STATE_OUT, target)
    assert target.read_bytes() == b"state"
    assert (target.stat().st_uid, target.stat().st_mode & 0o777) == (0, 0o444)
    assert not jail.path(STATE_OUT).exists()


def test_what_is_no_plain_file_of_the_vms_is_not_taken(jail: Jail, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    target = tmp_path / "taken"

    jail.path(STATE_OUT).symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        jail.take(STATE_OUT, target)
    jail.discard(STATE_OUT)

    os.link(secret, jail.path(STATE_OUT))  # as if protected_hardlinks were off
    with pytest.raises(VmmError, match="not what Firecracker writes"):
        jail.take(STATE_OUT, target)
    jail.discard(STATE_OUT)

    os.mkfifo(jail.path(STATE_OUT))
    os.chown(jail.path(STATE_OUT), UID, UID)
    with pytest.raises(VmmError, match="not what Firecracker writes"):
        jail.take(STATE_OUT, target)
    assert not target.exists()
    assert secret.stat().st_uid == os.geteuid()


def test_a_trap_at_the_place_of_a_new_file_is_not_followed(jail: Jail, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    jail.path(MEMORY_OUT).symlink_to(secret)
    with pytest.raises(FileExistsError):
        jail.create(MEMORY_OUT)
    assert secret.read_text() == "secret"


def test_taking_the_jail_apart_follows_no_link(jail: Jail, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (jail.root / "trap").symlink_to(outside)
    (jail.root / "deep").mkdir()
    (jail.root / "deep/trap").symlink_to(outside / "kept")
    jail.remove()
    assert (outside / "kept").read_text() == "kept"
    assert list(jail.place.directory.iterdir()) == []


def test_no_pid_file_is_an_error(jail: Jail) -> None:
    with pytest.raises(VmmError, match=r"left no firecracker\.pid"):
        jail.pid()
    (jail.root / "firecracker.pid").write_text("abc")
    with pytest.raises(VmmError, match=r"left no firecracker\.pid"):
        jail.pid()
    (jail.root / "firecracker.pid").write_text("123")
    assert jail.pid() == 123
