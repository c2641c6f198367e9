"""Copies, durable writes and files of untrusted origin, on the real file system."""

import errno
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wrenn_server.linux import files

BLOCK = 4096

extents = st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=3 * BLOCK)), max_size=6)


def sparse(path: Path, parts: list[tuple[int, bytes]], size: int) -> bytes:
    with path.open("wb") as file:
        for block, data in parts:
            file.seek(block * BLOCK)
            file.write(data)
        file.truncate(max(size, file.seek(0, os.SEEK_END)))
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(parts=extents, size=st.integers(0, 250 * BLOCK))
def test_a_copy_equals_its_source_and_keeps_its_holes(
    tmp_path: Path, parts: list[tuple[int, bytes]], size: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    content = sparse(source, parts, size)
    target.unlink(missing_ok=True)
    files.clone(source, target)

    assert target.read_bytes() == content
    assert target.stat().st_blocks <= source.stat().st_blocks + 16  # 8 KiB of slack for the file system's own


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no /dev/shm")
def test_a_copy_between_file_systems(tmp_path: Path) -> None:
    source, target = tmp_path / "source", Path("/dev/shm") / f"wrenn-test-{os.getpid()}"
    content = sparse(source, [(3, b"data"), (100, b"x" * 10000)], 1 << 20)
    try:
        files.clone(source, target)
        assert target.read_bytes() == content
        files.move(target, tmp_path / "back")
        assert not target.exists()
        assert (tmp_path / "back").read_bytes() == content
    finally:
        target.unlink(missing_ok=True)


def test_a_copy_never_replaces_or_follows(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to("old")
    for target in ("old", "link"):
        with pytest.raises(FileExistsError):
            files.clone(tmp_path / "source", tmp_path / target)
    with pytest.raises(OSError, match="symbolic"):
        files.clone(tmp_path / "link", tmp_path / "copy")
    assert (tmp_path / "old").read_bytes() == b"old"
    assert not (tmp_path / "copy").exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "copy", full)
    (tmp_path / "source").write_bytes(b"data")
    with pytest.raises(OSError, match="full"):
        files.clone(tmp_path / "source", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_copy_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"data")
    old = os.umask(0o777)
    try:
        files.clone(tmp_path / "source", tmp_path / "target", owner=43210)
    finally:
        os.umask(old)
    status = (tmp_path / "target").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (43210, 43210, 0o600)


def test_a_durable_write_replaces_a_file_and_survives_a_torn_one(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    (tmp_path / "state.json.new").write_bytes(b"half of an earl")
    files.write_durably(target, b"one")
    files.write_durably(target, b"two")
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_durable_write_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "state.json").symlink_to("victim")
    (tmp_path / "state.json.new").symlink_to("victim")
    files.write_durably(tmp_path / "state.json", b"data")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "state.json").is_symlink()


def test_removing_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").write_bytes(b"precious")
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/link").symlink_to(tmp_path / "keep")
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    for name in ("tree", "link", "tree", "never was"):
        files.remove(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep"]
    assert (tmp_path / "keep/file").exists()


def test_only_plain_files_are_taken_from_strangers(tmp_path: Path) -> None:
    good, me = tmp_path / "good", os.getuid()
    good.write_bytes(b"data")
    with open(files.open_untrusted(good, uid=me), "rb") as file:
        assert file.read() == b"data"

    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    for name in ("link", "pipe", "directory", "socket"):
        with pytest.raises(files.Untrusted, match=name):
            files.open_untrusted(tmp_path / name, uid=me)
    os.link(good, tmp_path / "second")
    with pytest.raises(files.Untrusted, match="2 names"):
        files.open_untrusted(good, uid=me)
    with pytest.raises(FileNotFoundError):
        files.open_untrusted(tmp_path / "missing", uid=me)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_file_of_another_user_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    os.chown(tmp_path / "file", 43211, 43211)
    os.close(files.open_untrusted(tmp_path / "file", uid=43211))
    with pytest.raises(files.Untrusted, match="user 43211"):
        files.open_untrusted(tmp_path / "file", uid=43210)


def test_missing_space_is_told_with_numbers(tmp_path: Path) -> None:
    files.require_space(tmp_path, 1, "a file")
    with pytest.raises(OSError, match=r"a file needs 1,048,576 MiB, [\d,]+ MiB are free") as full:
        files.require_space(tmp_path, 1 << 40, "a file")
    assert full.value.errno == errno.ENOSPC
