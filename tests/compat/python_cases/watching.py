"""Events of directories: polled by the synchronous half, pushed to the asynchronous one."""

import asyncio
from collections.abc import Callable
from typing import Any

from .kit import Sdk, case, e2b, raises, until


class Watch:
    """The same for both halves: events so far, and the end."""

    def __init__(self, sdk: Sdk, handle: Any, pushed: list[Any], ended: list[Any]) -> None:
        self.sdk = sdk
        self.handle = handle
        self.pushed = pushed
        self.ended = ended

    async def events(self) -> list[Any]:
        if not self.sdk.is_async:
            self.pushed += await self.sdk(self.handle.get_new_events)
        return self.pushed

    async def seen(self, question: Callable[[list[Any]], object]) -> list[Any]:
        async def asked() -> list[Any]:
            events = await self.events()
            return events if question(events) else []

        return await until(asked, seconds=10)

    async def stop(self) -> None:
        await self.sdk(self.handle.stop)


async def watch(sdk: Sdk, sandbox: Any, path: str, **options: Any) -> Watch:
    pushed: list[Any] = []
    ended: list[Any] = []
    if sdk.is_async:
        options |= {"on_event": pushed.append, "on_exit": ended.append}
    handle = await sdk(sandbox.files.watch_dir, path, **options)
    return Watch(sdk, handle, pushed, ended)


def kinds(events: list[Any], name: str) -> list[str]:
    return [event.type.name for event in events if event.name == name]


@case(
    "files.watch_dir",
    "a new file gives exactly CREATE, CHMOD, WRITE",
    also=("WatchHandle.stop",),
    domain=True,
)
async def new_file(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.make_dir, "/tmp/watch-new")
    watched = await watch(sdk, sandbox, "/tmp/watch-new")
    await sdk(sandbox.files.write, "/tmp/watch-new/a", "text")
    events = await watched.seen(lambda events: len(events) >= 3)
    assert [(event.name, event.type.name) for event in events] == [
        ("a", "CREATE"),
        ("a", "CHMOD"),
        ("a", "WRITE"),
    ]
    assert events[0].entry is None
    await watched.stop()


@case("WatchHandle.get_new_events", "each event once, at once after the write", only="sync", domain=True)
async def poll(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.make_dir, "/tmp/watch-poll")
    handle = await sdk(sandbox.files.watch_dir, "/tmp/watch-poll")
    assert await sdk(handle.get_new_events) == []
    await sdk(sandbox.files.write, "/tmp/watch-poll/a", "text")
    assert kinds(await sdk(handle.get_new_events), "a") == ["CREATE", "CHMOD", "WRITE"]
    assert await sdk(handle.get_new_events) == []
    await sdk(handle.stop)
    with raises(e2b.SandboxException):
        await sdk(handle.get_new_events)


@case("files.watch_dir", "exactly what a write, chmod, rename and remove give, in their order")
async def every_kind(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.write, "/tmp/watch-kinds/a", "text")
    watched = await watch(sdk, sandbox, "/tmp/watch-kinds")
    await sdk(sandbox.commands.run, "cd /tmp/watch-kinds; echo x >>a; chmod 600 a; mv a b; rm b")
    events = await watched.seen(lambda events: "REMOVE" in kinds(events, "b"))
    assert [(event.name, event.type.name) for event in events] == [
        ("a", "WRITE"),
        ("a", "CHMOD"),
        ("a", "RENAME"),
        ("b", "CREATE"),
        ("b", "REMOVE"),
    ]
    await watched.stop()


@case("files.watch_dir", "recursive: new directories are watched too; without it they are not", domain=True)
async def recursive(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.make_dir, "/tmp/watch-deep/there")
    watched = await watch(sdk, sandbox, "/tmp/watch-deep", recursive=True)
    flat = await watch(sdk, sandbox, "/tmp/watch-deep")
    await sdk(sandbox.files.write, "/tmp/watch-deep/there/a", "text")
    await sdk(sandbox.files.make_dir, "/tmp/watch-deep/new")
    await sdk(sandbox.files.write, "/tmp/watch-deep/new/b", "text")
    await watched.seen(lambda events: kinds(events, "there/a") and "WRITE" in kinds(events, "new/b"))
    seen = await flat.seen(lambda events: kinds(events, "new"))
    assert not kinds(seen, "there/a")
    await watched.stop()
    await flat.stop()


@case("files.watch_dir", "include_entry: the file's data beside the event")
async def include_entry(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.make_dir, "/tmp/watch-entry")
    watched = await watch(sdk, sandbox, "/tmp/watch-entry", include_entry=True)
    await sdk(sandbox.files.write, "/tmp/watch-entry/a", "text")
    events = await watched.seen(lambda events: "WRITE" in kinds(events, "a"))
    entry = next(event.entry for event in events if event.type.name == "WRITE")
    assert (entry.name, entry.path, entry.type) == ("a", "/tmp/watch-entry/a", e2b.FileType.FILE)
    await watched.stop()


@case("files.watch_dir", "missing, not a directory; allow_network_mounts is accepted")
async def odd(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    with raises(e2b.NotFoundException):
        await watch(sdk, sandbox, "/no/such/directory")
    with raises(e2b.InvalidArgumentException):
        await watch(sdk, sandbox, "/etc/passwd")
    await (await watch(sdk, sandbox, "/tmp", allow_network_mounts=True)).stop()


@case("WatchHandle.stop", "no events afterwards; on_exit is called once", only="async")
async def stop(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.files.make_dir, "/tmp/watch-stop")
    watched = await watch(sdk, sandbox, "/tmp/watch-stop")
    await sdk(sandbox.files.make_dir, "/tmp/watch-stop/before")
    await watched.seen(lambda events: kinds(events, "before"))
    await watched.stop()
    await sdk(sandbox.files.make_dir, "/tmp/watch-stop/after")

    async def ended() -> list[Any]:
        return watched.ended

    assert await until(ended, seconds=10) == [None]
    await asyncio.sleep(0.5)
    assert not kinds(watched.pushed, "after")


@case("files.watch_dir", "on_exit gets the error when the sandbox is killed", only="async", domain=True)
async def killed(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        watched = await watch(sdk, sandbox, "/tmp", timeout=0)
        await sdk(sdk.Sandbox.kill, sandbox.sandbox_id)

        async def ended() -> list[Any]:
            return watched.ended

        [error] = await until(ended, seconds=10)
        assert isinstance(error, e2b.SandboxException), repr(error)
