"""Overlays, images, templates and snapshots as files."""

import asyncio
import errno
import os
import shutil
import subprocess
import threading
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn_server.hostagent.storage import sealed, snapshots, templates
from wrenn_server.hostagent.storage.images import Images
from wrenn_server.hostagent.storage.overlays import LABEL, Overlays
from wrenn_server.hostagent.storage.paths import Paths, is_template_name
from wrenn_server.hostagent.storage.sealed import Saved
from wrenn_server.hostagent.storage.snapshots import Snapshots
from wrenn_server.hostagent.storage.templates import Templates
from wrenn_server.linux import files
from wrenn_server.model.errors import Internal, Unavailable
from wrenn_server.model.ids import new_sandbox_id

ME = os.getuid()
needs_mke2fs = pytest.mark.skipif(shutil.which("mke2fs") is None, reason="mke2fs is not installed")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.under(tmp_path)
    paths.prepare()
    return paths


@pytest.fixture
def images(paths: Paths) -> Images:
    (paths.images / "minimal.ext4").write_bytes(b"root file system")
    return Images(paths.images, paths.pinned)


@pytest.fixture
def store(paths: Paths, images: Images) -> Snapshots:
    return Snapshots(paths, images)


@pytest.fixture
def id(paths: Paths) -> str:
    id = new_sandbox_id()
    paths.sandbox(id).mkdir()
    paths.overlay(id).write_bytes(b"disk of one")
    return id


async def save(store: Snapshots, id: str, generation: int, *, memory: bytes = b"m" * 100) -> Path:
    image = store.images.pin(store.images.folder / "minimal.ext4")
    async with store.saving(id, generation, memory_mb=1, image=image) as directory:
        (directory / "memory" / "state").write_bytes(b"device state")
        (directory / "memory" / "memory").write_bytes(memory)
    return store.paths.snapshot(id, generation)


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


# Paths.


def test_the_tag_is_of_the_absolute_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Paths.under(Path("data")).tag == Paths.under(tmp_path / "data").tag
    assert Paths.under(tmp_path / "data").tag != Paths.under(tmp_path / "other").tag
    assert Paths.under(Path("/var/lib/wrenn")).tag == "6cf8"


@given(st.text(max_size=70))
def test_no_template_name_leads_out_of_its_folder(name: str) -> None:
    if is_template_name(name):
        assert name == Path(name).name
        assert len(name) <= 64
        assert not name.startswith(".")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "A", "a b", "a\n", "é", "-a", "a" * 65, "a\0"]
)
def test_these_are_no_template_names(name: str, images: Images) -> None:
    assert not is_template_name(name)
    assert images.find(name) is None


def test_a_wrong_id_never_becomes_a_path(paths: Paths) -> None:
    for wrong in ("..", "sb../../etc", "", "sb" + "A" * 20):
        with pytest.raises(ValueError, match="not a sandbox id"):
            paths.sandbox(wrong)
        with pytest.raises(ValueError, match="not a sandbox id"):
            paths.snapshot(wrong, 1)


# Images.


def test_images_are_found_by_name_and_links_stay_inside(images: Images, tmp_path: Path) -> None:
    outside = tmp_path / "secret.ext4"
    outside.write_bytes(b"secret")
    (images.folder / "base.ext4").symlink_to("minimal.ext4")
    (images.folder / "evil.ext4").symlink_to(outside)
    (images.folder / "loop.ext4").symlink_to("loop.ext4")
    (images.folder / "directory.ext4").mkdir()
    (images.folder / "notes.txt").write_bytes(b"")

    assert images.names() == ["base", "minimal"]
    assert images.find("base") == images.find("minimal") == images.folder / "minimal.ext4"
    assert images.find("evil") is images.find("loop") is images.find("missing") is None


def test_a_pinned_image_stays_what_it_was(images: Images) -> None:
    image = images.folder / "minimal.ext4"
    first = images.pin(image)
    assert images.pin(image) == first
    (images.folder / "new").write_bytes(b"rebuilt root file system")
    (images.folder / "new").rename(image)
    second = images.pin(image)

    assert first.read_bytes() == b"root file system"
    assert second.read_bytes() == b"rebuilt root file system"
    assert images.is_pinned(first)
    assert images.is_pinned(second)
    images.unpin(keep=[second])
    assert not images.is_pinned(first)
    assert second.exists()


def test_an_image_changed_in_place_is_noticed(images: Images) -> None:
    pinned = images.pin(images.folder / "minimal.ext4")
    with (images.folder / "minimal.ext4").open("ab") as file:
        file.write(b"!")
    assert not images.is_pinned(pinned)


# Overlays.


@needs_mke2fs
async def test_an_empty_overlay_is_a_small_labelled_file_system(paths: Paths, tmp_path: Path) -> None:
    overlays = Overlays(paths.blanks)
    first, second = tmp_path / "first", tmp_path / "second"
    await asyncio.gather(overlays.create(first, 5120, owner=ME), overlays.create(second, 5120, owner=ME))

    assert len(list(paths.blanks.iterdir())) == 1
    for path in (first, second):
        status = path.stat()
        assert (status.st_size, status.st_mode & 0o777) == (5120 << 20, 0o600)
        assert status.st_blocks * 512 < 8 << 20
        output("e2fsck", "-fn", str(path))
        assert output("e2label", str(path)).strip() == LABEL


@needs_mke2fs
async def test_a_clone_is_independent(paths: Paths, tmp_path: Path) -> None:
    overlays = Overlays(paths.blanks)
    source, copy = tmp_path / "source", tmp_path / "copy"
    await overlays.create(source, 512, owner=ME)
    await overlays.clone(source, copy, owner=ME)
    before = copy.read_bytes()[:8192]
    with source.open("r+b") as file:
        file.write(b"\xff" * 4096)
    assert copy.read_bytes()[:8192] == before
    with pytest.raises(FileExistsError):
        await overlays.clone(source, copy, owner=ME)


@needs_mke2fs
async def test_a_blank_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    overlays = Overlays(tmp_path / "blanks")
    with pytest.raises(Exception, match="mke2fs"):
        await overlays.create(tmp_path / "overlay", 0, owner=ME)
    assert list((tmp_path / "blanks").iterdir()) == []
    assert not (tmp_path / "overlay").exists()


# Snapshots.


async def test_a_saved_sandbox_is_whole_and_older_ones_are_gone(store: Snapshots, id: str) -> None:
    first = await save(store, id, 1)
    assert not store.paths.overlay(id).exists()
    saved = await store.saved(id, 1)
    assert saved == Saved(first / "memory", first / "overlay.ext4", saved.image)
    assert saved.overlay.read_bytes() == b"disk of one"
    assert saved.image.read_bytes() == b"root file system"

    store.paths.overlay(id).write_bytes(b"disk later")
    await save(store, id, 2)
    assert not store.is_saved(id, 1)
    assert (await store.saved(id, 2)).overlay.read_bytes() == b"disk later"
    with pytest.raises(Internal) as missing:
        await store.saved(id, 1)
    assert missing.value.code == "snapshot_missing"


async def test_a_failed_save_leaves_everything_as_it_was(store: Snapshots, id: str) -> None:
    await save(store, id, 1)
    store.paths.overlay(id).write_bytes(b"disk later")

    async def refused() -> None:
        async with store.saving(id, 2, memory_mb=1, image=Path("/nowhere")) as directory:
            (directory / "state").write_bytes(b"half")
            raise RuntimeError("the VMM refused")

    with pytest.raises(RuntimeError, match="the VMM"):
        await refused()

    assert store.paths.overlay(id).read_bytes() == b"disk later"
    assert not store.is_saved(id, 2)
    assert store.is_saved(id, 1)


async def test_a_save_that_fails_at_its_very_end_gives_the_disk_back(
    store: Snapshots, id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is dying")

    for step in ("fsync_tree", "write_durably", "fsync_directory"):
        with monkeypatch.context() as patch:
            patch.setattr(files, step, broken)
            with pytest.raises(OSError, match="dying"):
                await save(store, id, 1)
        assert store.paths.overlay(id).read_bytes() == b"disk of one"
        assert not store.is_saved(id, 1)


async def test_a_crash_before_the_manifest_is_undone(store: Snapshots, id: str) -> None:
    new = sealed.begin(store.paths.snapshot(id, 3))
    store.paths.overlay(id).rename(new / "overlay.ext4")

    assert not store.is_saved(id, 3)
    store.undo_saving(id, 3)
    store.undo_saving(id, 3)
    assert store.paths.overlay(id).read_bytes() == b"disk of one"
    assert not new.exists()


async def test_undoing_never_brings_an_older_disk_back(store: Snapshots, id: str) -> None:
    await save(store, id, 1)
    store.paths.overlay(id).write_bytes(b"newer")
    store.undo_saving(id, 1)
    assert store.paths.overlay(id).read_bytes() == b"newer"


async def test_what_was_resumed_is_never_resumed_again(store: Snapshots, id: str) -> None:
    await save(store, id, 1)
    await store.consume(id, 1)
    assert not store.is_saved(id, 1)
    with pytest.raises(Internal) as consumed:
        await store.saved(id, 1)
    assert consumed.value.code == "snapshot_consumed"


@pytest.mark.parametrize("name", ["memory/state", "memory/memory", "overlay.ext4", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "link"])
async def test_damage_is_found_before_it_is_loaded(store: Snapshots, id: str, name: str, damage: str) -> None:
    target = await save(store, id, 1) / name
    data = bytearray(target.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0xFF
        target.write_bytes(data)
    elif damage == "truncate":
        target.write_bytes(data[:-1])
    else:
        target.unlink()
        if damage == "link":
            target.symlink_to("/etc/hostname")
    with pytest.raises(Internal) as found:
        await store.saved(id, 1)
    assert found.value.code in {"snapshot_damaged", "snapshot_missing"}
    assert "/etc" not in found.value.message


async def test_one_flipped_bit_anywhere_is_found(store: Snapshots, id: str) -> None:
    """In data, in a hole, in the last byte of a file whose size is no multiple of anything."""
    with store.paths.overlay(id).open("wb") as disk:
        disk.write(os.urandom(3 << 20))
        disk.truncate((100 << 20) + 5)
        disk.seek(50 << 20)
        disk.write(os.urandom((1 << 20) + 77))
    snapshot = await save(store, id, 1, memory=os.urandom((2 << 20) + 1))
    await store.saved(id, 1)
    random = Random(4)
    for part in ("memory/memory", "overlay.ext4"):
        size = (snapshot / part).stat().st_size
        for position in (0, size - 1, size // 2, *(random.randrange(size) for _ in range(5))):
            bit = 1 << random.randrange(8)
            flip(snapshot / part, position, bit)
            with pytest.raises(Internal, match=f"the snapshot's {part} is not what was saved"):
                await store.saved(id, 1)
            flip(snapshot / part, position, bit)
    await store.saved(id, 1)


async def test_each_bit_of_a_manifest_is_held_to_its_hash(store: Snapshots, id: str) -> None:
    """A flip in the name of a field that has a default, or in the path of the image, decodes."""
    manifest = await save(store, id, 1) / "manifest.json"
    for position in range(manifest.stat().st_size):
        for bit in range(8):
            flip(manifest, position, 1 << bit)
            with pytest.raises(Internal) as found:
                sealed.read(manifest.parent)
            assert found.value.code == "snapshot_damaged", (position, bit)
            flip(manifest, position, 1 << bit)
    await store.saved(id, 1)


def flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        [byte] = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ bit]))


async def test_holes_may_be_filled_and_dug(store: Snapshots, id: str) -> None:
    """As a backup does that knows of none."""
    disk = store.paths.overlay(id)
    with disk.open("r+b") as file:
        file.truncate((20 << 20) + 5)
    snapshot = await save(store, id, 1)
    (snapshot / "overlay.ext4").write_bytes((snapshot / "overlay.ext4").read_bytes())
    await store.saved(id, 1)


async def test_a_replaced_image_under_a_snapshot_is_noticed(store: Snapshots, id: str) -> None:
    await save(store, id, 1)
    store.images.unpin(keep=[])
    with pytest.raises(Internal) as changed:
        await store.saved(id, 1)
    assert changed.value.code == "image_changed"


async def test_a_full_disk_is_told_before_anything_happens(store: Snapshots, id: str) -> None:
    with pytest.raises(Unavailable, match=r"needs \d+ MiB of disk space, \d+ MiB are free") as full:
        async with store.saving(id, 1, memory_mb=1 << 30, image=Path("/nowhere")):
            raise AssertionError("not entered")
    assert full.value.code == "disk_full"
    assert list(store.paths.snapshots.iterdir()) == []
    with pytest.raises(Unavailable):
        snapshots.require_space(store.paths.snapshots, 1 << 30)


async def test_a_checkpoint_is_gone_afterwards(store: Snapshots) -> None:
    async with store.checkpointing(memory_mb=1) as directory:
        (directory / "memory/state").write_bytes(b"")
    assert list(store.paths.snapshots.iterdir()) == []


async def test_sweeping_keeps_what_is_known(store: Snapshots, id: str) -> None:
    await save(store, id, 1)
    stray = store.paths.snapshot(new_sandbox_id(), 1)
    stray.mkdir(parents=True)
    (store.paths.snapshots / "fork-x").mkdir()
    (store.paths.snapshots / "lost+found").mkdir()
    image = (await store.saved(id, 1)).image

    assert store.pins([id]) == [image]
    store.sweep([id])
    assert {path.name for path in store.paths.snapshots.iterdir()} == {id, "lost+found"}
    await store.remove(id)
    await store.remove(id)
    assert store.pins([id]) == []


# Templates.


async def make_template(store: Templates, key: str) -> Path:
    image = store.images.pin(store.images.folder / "minimal.ext4")
    async with store.making(key, image) as making:
        (making.memory / "state").write_bytes(b"state")
        making.overlay.write_bytes(b"disk")
    return image


async def test_a_template_is_there_when_it_is_finished(paths: Paths, images: Images) -> None:
    store = Templates(paths.templates, images)
    assert await store.find("k") is None
    with pytest.raises(RuntimeError):
        async with store.making("k", images.pin(images.folder / "minimal.ext4")):
            raise RuntimeError("did not boot")
    assert await store.find("k") is None
    assert store.keys() == []

    image = await make_template(store, "k")
    saved = await store.find("k")
    assert saved is not None
    assert (saved.overlay.read_bytes(), saved.image) == (b"disk", image)
    assert (store.keys(), store.pins()) == (["k"], [image])


async def test_a_damaged_template_is_made_again(paths: Paths, images: Images) -> None:
    store = Templates(paths.templates, images)
    await make_template(store, "k")
    (paths.templates / "k/memory/state").write_bytes(b"other")
    assert await store.find("k") is None
    await make_template(store, "k")
    assert await store.find("k") is not None


async def test_sweeping_removes_half_made_and_orphaned_templates(paths: Paths, images: Images) -> None:
    store = Templates(paths.templates, images)
    await make_template(store, "good")
    sealed.begin(paths.templates / "half")
    (paths.templates / "torn").mkdir()
    store.sweep()
    assert {path.name for path in paths.templates.iterdir()} == {"good", ".blank"}
    images.unpin(keep=[])
    store.sweep()
    assert store.keys() == []


def test_a_rebuilt_image_or_another_vmm_makes_another_key(images: Images) -> None:
    image = images.folder / "minimal.ext4"

    def key(vcpus: int = 1, version: str = "7.2") -> str:
        return templates.key(
            template="minimal",
            vcpus=vcpus,
            memory_mb=512,
            disk_mb=5120,
            files=[image],
            driver="qemu",
            version=version,
        )

    first = key()
    assert first == key()
    assert first.startswith("minimal-1-512-5120-")
    assert len({first, key(vcpus=2), key(version="10.0")}) == 3
    (images.folder / "new").write_bytes(b"root file system")
    (images.folder / "new").rename(image)
    assert key() != first


# Threads.


async def test_a_cancelled_save_is_undone_after_its_thread_has_ended(
    store: Snapshots, id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill breaks a pause off while the snapshot is on its way to the disk."""
    reached, go = threading.Event(), threading.Event()
    order: list[str] = []
    write, undo = files.fsync_tree, Snapshots.undo_saving

    def slow_write(path: Path) -> None:
        reached.set()
        assert go.wait(10)
        write(path)
        order.append("written")

    def noted_undo(self: Snapshots, id: str, generation: int) -> None:
        order.append("undone")
        undo(self, id, generation)

    monkeypatch.setattr(files, "fsync_tree", slow_write)
    monkeypatch.setattr(Snapshots, "undo_saving", noted_undo)
    saving = asyncio.create_task(save(store, id, 1))
    await asyncio.to_thread(reached.wait, 10)
    for _ in range(2):
        saving.cancel()
        for _ in range(20):  # turns in which a hasty undo would have been done
            await asyncio.to_thread(int)
    assert not saving.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert order == ["written", "undone"]
    assert store.paths.overlay(id).read_bytes() == b"disk of one"
    assert not store.is_saved(id, 1)
    assert list((store.paths.snapshots / id).iterdir()) == []
