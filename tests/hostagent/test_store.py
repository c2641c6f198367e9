"""Two agents with one object store: what rests on the one goes on on the other."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hostagent.world import ID, World, pause, refused, resume, start
from msgspec.structs import replace

from wrenn_server.hostagent.sandbox.registry import Registry
from wrenn_server.hostagent.storage import chunks, sealed
from wrenn_server.hostagent.storage.objects import Objects
from wrenn_server.hostagent.storage.store import Store, of_sandbox
from wrenn_server.model.errors import Internal, Unavailable
from wrenn_server.model.ids import new_snapshot_id
from wrenn_server.model.sandbox import Reason, State
from wrenn_server.wire import agent as wire

DISK = b"a disk" + bytes(3 << 20) + os.urandom(2 << 20)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def first(tmp_path: Path, objects: Path) -> AsyncGenerator[World]:
    async with machine(tmp_path / "first", objects) as world:
        yield world


@pytest.fixture
async def second(tmp_path: Path, objects: Path) -> AsyncGenerator[World]:
    async with machine(tmp_path / "second", objects) as world:
        yield world


@contextlib.asynccontextmanager
async def machine(directory: Path, objects: Path) -> AsyncGenerator[World]:
    world = World(directory, objects)
    yield world
    for vm in list(world.vms.values()):
        vm.end(Reason.USER, "")
    await asyncio.sleep(0)


async def paused(world: World, agent: Registry, generation: int = 1) -> None:
    """A sandbox with something on its disk, in the store."""
    await agent.start(ID, start(envs={"A": "1"}))
    overlay = world.paths.overlay(ID)
    overlay.write_bytes(DISK)
    await agent.pause(ID, pause(generation))
    await agent.store(ID, wire.Store(generation=generation))


def manifests(objects: Path, id: str = ID) -> list[str]:
    return sorted(path.name for path in objects.glob(f"*/{id}/*.json"))


async def test_a_paused_sandbox_goes_on_on_another_host(first: World, second: World) -> None:
    async with first.agent() as here, second.agent() as there:
        await paused(first, here)
        assert here.get(ID).stored == "fake"
        answer = await there.resume(ID, resume(2, stored=1))
        assert (answer.state, answer.generation, answer.stored) == (State.RUNNING, 2, None)
        assert second.paths.overlay(ID).read_bytes() == DISK
        assert second.paths.overlay(ID).stat().st_blocks * 512 < len(DISK), "holes stay holes"
        [init] = second.vm().envd.inits
        assert init["accessToken"] == "token2"
        entry = second.entry()
        assert entry is not None
        assert entry.envs == {"A": "1"}
        # The first one forgets its copy, and the store keeps what the second may need.
        await here.kill(ID, 1, elsewhere=True)
        assert first.traces() == []
        assert manifests(first.objects or Path()) == ["1.json"]
        assert first.slots.used == set()


async def test_and_comes_back(first: World, second: World) -> None:
    async with first.agent() as here, second.agent() as there:
        await paused(first, here)
        await there.resume(ID, resume(2, stored=1))
        await here.kill(ID, 1, elsewhere=True)
        first.history.clear()
        await there.pause(ID, pause(2))
        await there.store(ID, wire.Store(generation=2))
        assert manifests(second.objects or Path()) == ["2.json"], "the older one is of no use any more"
        await here.fetch(ID, wire.Fetch(generation=2))
        assert (here.get(ID).state, here.get(ID).stored) == (State.PAUSED, "fake")
        await here.resume(ID, resume(3))


async def test_a_kill_takes_everything_out_of_the_store(first: World, objects: Path) -> None:
    async with first.agent() as agent:
        await paused(first, agent)
        await agent.kill(ID, 1)
        await watched(objects / of_sandbox(ID, 1))
        await watched(first.paths.doomed / ID)


async def watched(path: Path) -> None:
    async with asyncio.timeout(10):
        while path.exists():  # noqa: ASYNC110 - a file of the store, which tells nobody
            await asyncio.sleep(0.01)


async def test_an_agent_goes_on_with_what_the_one_before_did_not_send(first: World, objects: Path) -> None:
    async with first.agent() as agent:
        await agent.start(ID, start())
        objects.rename(objects.with_name("away"))
        objects.write_text("no folder")
        await agent.pause(ID, pause())
        assert await refused(agent.store(ID, wire.Store(generation=1))) == "store_unavailable"
        assert agent.get(ID).stored is None
    objects.unlink()
    async with first.agent() as agent:
        await agent.store(ID, wire.Store(generation=1))
        assert agent.get(ID).stored == "fake"
    async with first.agent() as agent:
        assert agent.get(ID).stored == "fake", "the next one knows"


async def test_a_kill_reaches_a_store_that_was_away(first: World, objects: Path) -> None:
    async with first.agent() as agent:
        await paused(first, agent)
        objects.rename(objects.with_name("away"))
        objects.write_text("no folder")
        await agent.kill(ID, 1)
        assert first.traces() == [f"store/doomed/{ID}"]
    objects.unlink()
    objects.with_name("away").rename(objects)
    async with first.agent():
        await watched(objects / of_sandbox(ID, 1))


async def test_a_snapshot_starts_on_another_host(first: World, second: World) -> None:
    snapshot_id = new_snapshot_id()
    async with first.agent() as here, second.agent() as there:
        await here.start(ID, start())
        first.paths.overlay(ID).write_bytes(DISK)
        await here.snapshot(ID, wire.Snapshot(generation=1, id=snapshot_id))
        await here.store_snapshot(snapshot_id)
        other = "sb" + "d" * 20
        await there.start(other, start(snapshot=snapshot_id, access_token="new"))
        assert second.paths.overlay(other).read_bytes() == DISK
        await there.delete_snapshot(snapshot_id)
        assert not second.paths.named_snapshot(snapshot_id).exists()


@pytest.mark.parametrize("what", ["flipped", "gone"])
async def test_what_the_store_lost_or_changed_is_refused(
    first: World, second: World, objects: Path, what: str
) -> None:
    async with first.agent() as here, second.agent() as there:
        await paused(first, here)
        for chunk in objects.glob("chunks/*/*"):
            data = bytearray(chunk.read_bytes())
            data[len(data) // 2] ^= 1
            chunk.unlink() if what == "gone" else chunk.write_bytes(data)
        assert await refused(there.resume(ID, resume(2, stored=1))) == "snapshot_damaged"
        assert second.traces() == []
        assert list(second.paths.pinned.glob("*.new")) == []
        await here.resume(ID, resume(2))  # what is here is not


async def test_another_image_of_the_same_name_is_not_used(first: World, second: World) -> None:
    (first.paths.images / "minimal.ext4").write_bytes(b"one root file system")
    (second.paths.images / "minimal.ext4").write_bytes(b"two root file system")
    async with first.agent() as here, second.agent() as there:
        await paused(first, here)
        await there.resume(ID, resume(2, stored=1))
        entry = second.entry()
        assert entry is not None
        assert Path(entry.image or "").read_bytes() == b"one root file system"
        assert Path(entry.image or "").parent == second.paths.pinned
    async with second.agent() as there:
        assert there.get(ID).state is State.RUNNING


async def test_only_missing_chunks_are_sent(first: World, objects: Path) -> None:
    async with first.agent() as agent:
        await paused(first, agent)
        before = {path: path.stat().st_mtime_ns for path in objects.glob("chunks/*/*")}
        await agent.resume(ID, resume(2))
        with first.paths.overlay(ID).open("r+b") as overlay:
            overlay.write(b"another")
        await agent.pause(ID, pause(2))
        await agent.store(ID, wire.Store(generation=2))
        after = {path: path.stat().st_mtime_ns for path in objects.glob("chunks/*/*")}
        assert before.items() <= after.items()
        assert 1 <= len(after) - len(before) <= 3, "of the disk one, the device state, the VMM's manifest"


async def test_the_collector_removes_what_is_old_and_unnamed(first: World, objects: Path) -> None:
    async with first.agent() as agent:
        await paused(first, agent)
    store = Store(Objects.open(str(objects)), first.paths, first.host().files.images)
    found = sorted(objects.glob("chunks/*/*"))
    old = objects / chunks.path_of("a" * 64)
    young = objects / chunks.path_of("b" * 64)
    for stray in (old, young):
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"x")
    for path in (old, *found):
        os.utime(path, (0, 0))
    assert await store.collect() == 1
    assert not old.exists()
    assert young.exists()
    assert all(path.exists() for path in found)
    await store.drop(ID)
    assert await store.collect() == len(found)


async def test_a_file_that_shares_is_one_file(first: World, second: World, tmp_path: Path) -> None:
    """The memory of a template under several sandboxes: fetched once, one inode."""
    store, other = (
        Store(Objects.open(str(tmp_path / "objects")), w.paths, w.host().files.images)
        for w in (first, second)
    )
    image = first.host().files.images.pin(first.paths.images / "minimal.ext4")
    memory = tmp_path / "memory"
    memory.write_bytes(os.urandom(3 << 20))
    inodes: set[int] = set()
    for number in (1, 2):
        final = first.paths.snapshot(ID, number)
        new = sealed.begin(final)
        os.link(memory, new / "memory/memory")
        (new / "overlay.ext4").write_bytes(b"disk")
        sealed.seal(new, final, image)
        sent = await store.upload(of_sandbox(ID, number), final, template="minimal")
        assert (sent > 2 << 20) == (number == 1)
        target = second.paths.snapshot(ID, number)
        await other.fetch(await other.find(of_sandbox(ID, number)), target)
        inodes.add((target / "memory/memory").stat().st_ino)
    assert len(inodes) == 1
    other.sweep()
    assert len(list(second.paths.shared.iterdir())) == 1


async def test_a_store_that_makes_no_sense_is_refused(first: World, objects: Path) -> None:
    store = Store(Objects.open(str(objects)), first.paths, first.host().files.images)
    name = of_sandbox(ID, 1)
    content = {"size": 1, "mode": 0o600, "chunks": {}}
    good = {"machine": "x", "template": "minimal", "image": content, "files": {"overlay.ext4": content}}
    bad = [
        {"files": {"../x": content}},
        {"files": {"manifest.json": content}},
        {"files": {"overlay.ext4": {**content, "size": -1}}},
        {"template": "../m"},
        {"version": 9},
        {"image": {**content, "chunks": {"1": "a" * 64}}},
        {"image": {**content, "chunks": {"0": "../../x"}}},
        {"image": None},
    ]
    await store.objects.put(name, json.dumps(good).encode())
    assert (await store.find(name)).machine == "x"
    for change in bad:
        await store.objects.put(name, json.dumps(good | change).encode())
        with pytest.raises(Internal):
            await store.find(name)
    await store.drop(ID)
    with pytest.raises(Unavailable):
        await store.find(name)


def test_chunks_are_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (
        b"",
        b"x",
        bytes(5 << 20),
        b"a" + bytes(2 << 20) + b"b" * 5000 + bytes(chunks.CHUNK),
        os.urandom(3 << 20),
    ):
        path.write_bytes(data)
        with path.open("rb") as file:
            numbers = list(chunks.with_data(file.fileno()))
            pieces = {n: chunks.read(file.fileno(), n) for n in numbers}
        copy = tmp_path / "copy"
        copy.unlink(missing_ok=True)
        chunks.make(copy, chunks.Content(size=len(data), mode=0o600, chunks={}))
        with copy.open("r+b") as target:
            for number, piece in pieces.items():
                name = chunks.name_of(piece)
                if name is not None:
                    chunks.write(target.fileno(), number, chunks.unpack(chunks.pack(piece), name))
        assert copy.read_bytes() == data
        assert copy.stat().st_blocks <= path.stat().st_blocks


@pytest.mark.parametrize("url", ["relative/folder", "file://host/folder", "ftp://host/x", "s3://", "http:"])
def test_what_is_no_object_store_is_said(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected the absolute path|cannot be used"):
        Objects.open(url)


@pytest.mark.parametrize("part", ["overlay.ext4", "memory/state", "memory/vmm.json", "manifest.json"])
async def test_a_damaged_snapshot_is_fetched_again(first: World, part: str) -> None:
    async with first.agent() as agent:
        await paused(first, agent)
        flip(first.paths.snapshot(ID, 1) / part)
        await agent.resume(ID, resume(2))
        assert first.paths.overlay(ID).read_bytes() == DISK
        [init] = first.vm().envd.inits
        assert init["accessToken"] == "token2"


async def test_a_damaged_snapshot_that_nobody_else_has_is_refused(first: World, objects: Path) -> None:
    async with first.agent() as agent:
        await paused(first, agent)
        (objects / of_sandbox(ID, 1)).unlink()
        overlay = first.paths.snapshot(ID, 1) / "overlay.ext4"
        flip(overlay)
        assert await refused(agent.resume(ID, resume(2))) == "snapshot_damaged"
        assert agent.get(ID).state is State.PAUSED
        flip(overlay)
        await agent.resume(ID, resume(2))


async def test_what_is_shared_is_not_fetched_from_a_damaged_one(first: World, objects: Path) -> None:
    """The damage is in the one file that all who share it have."""
    async with first.agent() as agent:
        await paused(first, agent)
        memory = first.paths.snapshot(ID, 1) / "memory/state"
        content = memory.read_bytes()
        store = Store(Objects.open(str(objects)), first.paths, first.host().files.images)
        await store.upload(of_sandbox(ID, 1), memory.parent.parent, template="minimal")
        stored = await store.find(of_sandbox(ID, 1))
        os.link(memory, first.paths.shared / stored.files["memory/state"].digest)
        before = memory.stat()
        flip(memory)
        os.utime(memory, ns=(before.st_atime_ns, before.st_mtime_ns))
        await store.fetch(replace(stored, shared=["memory/state"]), first.paths.snapshot(ID, 1))
        assert memory.read_bytes() == content


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(data)
