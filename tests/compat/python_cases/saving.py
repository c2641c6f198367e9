"""Pause, resume, auto-pause, fork, snapshots."""

import time
import uuid
from typing import Any

from .kit import Sdk, case, e2b, get, raises, until
from .lifecycle import MISSING


def reboot(sdk: Sdk) -> dict[str, Any]:
    """How this version asks for a pause without memory."""
    return {"mode": "filesystem"} if sdk.version >= (2, 63) else {"keep_memory": False}


async def boot_id(sdk: Sdk, sandbox: Any) -> str:
    """Of the guest; the platform renews it after each restore, so only a process tells a resume from a reboot."""
    return await sdk(sandbox.files.read, "/proc/sys/kernel/random/boot_id")


async def state(sdk: Sdk, sandbox: Any) -> str:
    return str((await sdk(sandbox.get_info)).state.value)


@case(
    "Sandbox.pause", "full: processes, variables and files are there after connect", also=("Sandbox.connect",)
)
async def full(sdk: Sdk) -> None:
    metadata = {"run": uuid.uuid4().hex}
    async with sdk.sandbox(envs={"KEPT": "yes"}, metadata=metadata) as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        await sdk(sandbox.files.write, "note", "text")
        assert await sdk(sandbox.pause) is True
        assert [str(info.state.value) for info in await sdk.metadata_sandboxes(metadata)] == ["paused"]
        assert not await sdk(sandbox.is_running)
        assert await sdk(sandbox.connect, timeout=120) is sandbox
        assert await sdk(sandbox.is_running)
        assert handle.pid in [process.pid for process in await sdk(sandbox.commands.list)]
        result = await sdk(sandbox.commands.run, f"echo $KEPT; cat note; kill -0 {handle.pid} && echo alive")
        assert result.stdout == "yes\ntextalive\n"


@case("Sandbox.pause", "False when it is paused already; not found when it is unknown")
async def paused_already(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        assert await sdk(sandbox.pause) is True
        assert await sdk(sandbox.pause) is False
        assert await sdk(sdk.Sandbox.kill, sandbox.sandbox_id) is True
    with raises(e2b.SandboxNotFoundException):
        await sdk(sdk.Sandbox.pause, MISSING)


@case("Sandbox.pause", "static, and connect by id")
async def static(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        assert await sdk(sdk.Sandbox.pause, sandbox.sandbox_id) is True
        other = await sdk(sdk.Sandbox.connect, sandbox.sandbox_id, timeout=120)
        assert (await sdk(other.commands.run, "echo 1")).stdout == "1\n"
        # The first handle has the same sandbox and token.
        assert (await sdk(sandbox.commands.run, "echo 1")).stdout == "1\n"


@case("Sandbox.pause", "filesystem: files stay, processes and /dev/shm do not", also=("Sandbox.connect",))
async def filesystem(sdk: Sdk) -> None:
    async with sdk.sandbox(envs={"KEPT": "yes"}) as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        before = await boot_id(sdk, sandbox)
        await sdk(sandbox.files.write, "note", "text")
        await sdk(sandbox.commands.run, "echo x >/dev/shm/lost", user="root")
        assert await sdk(sandbox.pause, **reboot(sdk)) is True
        await sdk(sandbox.connect, timeout=120)
        assert await boot_id(sdk, sandbox) != before
        assert await sdk(sandbox.files.read, "note") == "text"
        assert not await sdk(sandbox.files.exists, "/dev/shm/lost")
        assert handle.pid not in [process.pid for process in await sdk(sandbox.commands.list)]
        assert (await sdk(sandbox.commands.run, "echo $KEPT")).stdout == "yes\n"


@case("Sandbox.connect", "on_resume='reboot': a full pause comes back from the disk", since=(2, 63))
async def on_resume(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        await sdk(sandbox.files.write, "note", "text")
        await sdk(sandbox.commands.run, "sync")
        await sdk(sandbox.pause)
        await sdk(sandbox.connect, timeout=120, on_resume="reboot")
        assert await sdk(sandbox.files.read, "note") == "text"
        assert handle.pid not in [process.pid for process in await sdk(sandbox.commands.list)]


@case("Sandbox.beta_pause", "the old name of pause")
async def beta_pause(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        assert await sdk(sandbox.beta_pause) is True
        assert await state(sdk, sandbox) == "paused"


@case("Sandbox.create", "lifecycle: a timeout pauses; connect wakes it")
async def auto_pause(sdk: Sdk) -> None:
    async with sdk.sandbox(lifecycle={"on_timeout": "pause"}) as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        info = await sdk(sandbox.get_info)
        assert dict(info.lifecycle) | {"on_timeout": "pause"} == dict(info.lifecycle)
        assert not info.lifecycle["auto_resume"]
        began = time.monotonic()
        await sdk(sandbox.set_timeout, 2)

        async def paused() -> bool:
            return await state(sdk, sandbox) == "paused"

        await until(paused, seconds=10)
        assert time.monotonic() - began > 1.4
        assert not await sdk(sandbox.is_running)
        await sdk(sandbox.connect, timeout=120)
        assert handle.pid in [process.pid for process in await sdk(sandbox.commands.list)]


@case("Sandbox.create", "lifecycle: a timeout that pauses the file system alone")
async def auto_pause_filesystem(sdk: Sdk) -> None:
    kind = {"mode": "filesystem"} if sdk.version >= (2, 63) else {"keep_memory": False}
    async with sdk.sandbox(lifecycle={"on_timeout": {"action": "pause", **kind}}) as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        await sdk(sandbox.files.write, "note", "text")
        await sdk(sandbox.set_timeout, 0)

        async def paused() -> bool:
            return await state(sdk, sandbox) == "paused"

        await until(paused, seconds=15)
        await sdk(sandbox.connect, timeout=120)
        assert await sdk(sandbox.files.read, "note") == "text"
        assert handle.pid not in [process.pid for process in await sdk(sandbox.commands.list)]


@case("Sandbox.create", "lifecycle: traffic wakes a paused sandbox (auto_resume)", domain=True)
async def auto_resume(sdk: Sdk) -> None:
    async with sdk.sandbox(lifecycle={"on_timeout": "pause", "auto_resume": True}) as sandbox:
        assert (await sdk(sandbox.get_info)).lifecycle["auto_resume"]
        await sdk.serve(sandbox, "0.0.0.0:8080")
        await sdk(sandbox.pause)
        assert (await sdk(sandbox.commands.run, "echo awake")).stdout == "awake\n"
        assert await state(sdk, sandbox) == "running"
        await sdk(sandbox.pause)
        assert (await get(sandbox, 8080)).status_code == 200
        assert await state(sdk, sandbox) == "running"


@case("Sandbox.fork", "copies with memory and files; the source goes on", domain=True)
async def fork(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        await sdk(sandbox.files.write, "note", "source")
        forks = await sdk(sandbox.fork, timeout=120, count=2)
        try:
            assert len({sandbox.sandbox_id, *(fork.sandbox_id for fork in forks)}) == 3
            for fork in forks:
                assert handle.pid in [process.pid for process in await sdk(fork.commands.list)]
                await sdk(fork.files.write, "note", fork.sandbox_id)
            assert await sdk(sandbox.files.read, "note") == "source"
            assert [await sdk(fork.files.read, "note") for fork in forks] == [
                fork.sandbox_id for fork in forks
            ]
            assert (
                await sdk(sandbox.commands.run, f"kill -0 {handle.pid} && echo alive")
            ).stdout == "alive\n"
        finally:
            for fork in forks:
                await sdk(fork.kill)


@case("Sandbox.fork", "static; an unknown sandbox is not found; a bad count is refused")
async def fork_static(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    [fork] = await sdk(sdk.Sandbox.fork, sandbox.sandbox_id, timeout=60)
    assert (await sdk(fork.commands.run, "echo 1")).stdout == "1\n"
    await sdk(fork.kill)
    with raises(e2b.SandboxNotFoundException):
        await sdk(sdk.Sandbox.fork, MISSING)
    with raises(e2b.InvalidArgumentException):
        await sdk(sandbox.fork, count=0)


@case(
    "Sandbox.create_snapshot",
    "unnamed; sandboxes from it run on with memory, each by itself",
    also=("Sandbox.delete_snapshot",),
)
async def snapshot(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        await sdk(sandbox.files.write, "note", "source")
        saved = await sdk(sandbox.create_snapshot)
        assert saved.snapshot_id
        assert (await sdk(sandbox.commands.run, f"kill -0 {handle.pid} && echo alive")).stdout == "alive\n"
    async with sdk.sandbox(template=saved.snapshot_id) as one, sdk.sandbox(template=saved.snapshot_id) as two:
        assert handle.pid in [process.pid for process in await sdk(one.commands.list)]
        await sdk(one.files.write, "note", "one")
        assert await sdk(two.files.read, "note") == "source"
    assert await sdk(sdk.Sandbox.delete_snapshot, saved.snapshot_id) is True
    assert await sdk(sdk.Sandbox.delete_snapshot, saved.snapshot_id) is False
    with raises(e2b.SandboxException, saying="404"):
        await sdk(sdk.Sandbox.create, saved.snapshot_id)


@case("Sandbox.create_snapshot", "by name, static; an unknown sandbox is not found")
async def snapshot_named(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    name = "snap-" + uuid.uuid4().hex[:8]
    saved = await sdk(sdk.Sandbox.create_snapshot, sandbox.sandbox_id, name=name)
    try:
        assert any(name in given for given in saved.names), saved.names
        async with sdk.sandbox(template=name) as copy:
            assert (await sdk(copy.commands.run, "echo 1")).stdout == "1\n"
    finally:
        assert await sdk(sdk.Sandbox.delete_snapshot, saved.snapshot_id) is True
    with raises(e2b.SandboxNotFoundException):
        await sdk(sdk.Sandbox.create_snapshot, MISSING)


@case("Sandbox.create_snapshot", "mode='filesystem': sandboxes from it boot", since=(2, 63))
async def snapshot_filesystem(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        handle = await sdk(sandbox.commands.run, "sleep 600", background=True)
        await sdk(sandbox.files.write, "note", "source")
        saved = await sdk(sandbox.create_snapshot, mode="filesystem")
        assert (await sdk(sandbox.commands.run, f"kill -0 {handle.pid} && echo alive")).stdout == "alive\n"
    async with sdk.sandbox(template=saved.snapshot_id) as copy:
        assert await sdk(copy.files.read, "note") == "source"
        assert handle.pid not in [process.pid for process in await sdk(copy.commands.list)]
    assert await sdk(sdk.Sandbox.delete_snapshot, saved.snapshot_id) is True


@case(
    "Sandbox.list_snapshots",
    "of a sandbox, by name, in pages",
    also=("SnapshotPaginator.next_items", "SnapshotPaginator.has_next", "SnapshotPaginator.next_token"),
)
async def list_snapshots(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        name = "snap-" + uuid.uuid4().hex[:8]
        first = await sdk(sandbox.create_snapshot)
        second = await sdk(sandbox.create_snapshot, name=name)
        try:
            paginator = sandbox.list_snapshots(limit=1)
            found: list[str] = []
            pages = 0
            while paginator.has_next:
                assert pages == 0 or paginator.next_token
                found += [info.snapshot_id for info in await sdk(paginator.next_items)]
                pages += 1
            assert sorted(found) == sorted([first.snapshot_id, second.snapshot_id])
            assert pages == 2
            named = await sdk(sdk.Sandbox.list_snapshots(name=name).next_items)
            assert [info.snapshot_id for info in named] == [second.snapshot_id]
            assert await sdk(sdk.Sandbox.list_snapshots(name="no-such-name").next_items) == []
        finally:
            for saved in (first, second):
                await sdk(sdk.Sandbox.delete_snapshot, saved.snapshot_id)


@case("Sandbox.delete_snapshot", "False when there is none")
async def delete_missing(sdk: Sdk) -> None:
    assert await sdk(sdk.Sandbox.delete_snapshot, "no-such-snapshot") is False
