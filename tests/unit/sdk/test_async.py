"""What only the asynchronous flavour has; the rest is held by the tests of the synchronous one, which is generated."""

import asyncio
import io

import pytest
from unit.sdk.fake_platform import KEY, Exchange, Platform

import wrenn
from wrenn import AsyncClient, AsyncSandbox


async def hello(to: Exchange) -> None:
    await to.stdout(b"hi\n")
    await to.exit()


async def test_a_life(platform: Platform) -> None:
    platform.commands["hello"] = hello
    async with await AsyncSandbox.create(base_url=platform.base_url, api_key=KEY) as sandbox:
        seen: list[str] = []

        async def later(text: str) -> None:
            await asyncio.sleep(0)
            seen.append(text)

        result = await sandbox.commands.run("hello", on_stdout=later, on_stderr=seen.append)
        assert (result.stdout, seen) == ("hi\n", ["hi\n"])
        await sandbox.files.write("a", io.BytesIO(b"x" * 1_000_000))
        async with sandbox.files.stream("a") as content:
            assert sum([len(piece) async for piece in content]) == 1_000_000
        assert await sandbox.files.read("a") == "x" * 1_000_000
        handle = await sandbox.commands.run("hello", background=True)
        assert [output.text async for output in handle] == ["hi\n"]
        [fork] = await sandbox.fork()
        await sandbox.pause()
        await sandbox.resume()
        assert len(await AsyncSandbox.list(base_url=platform.base_url, api_key=KEY)) == 2
        await fork.kill()
        assert fork.client is sandbox.client
    assert not await sandbox.is_running()
    await sandbox.client.close()
    assert repr(sandbox) == f"<AsyncSandbox {sandbox.id}>"


async def test_commands_run_together_and_connections_are_used_again(platform: Platform) -> None:
    gate = asyncio.Event()
    running = 0

    async def together(to: Exchange) -> None:
        nonlocal running
        running += 1
        if running == 20:
            gate.set()
        await gate.wait()
        await to.exit()

    platform.commands["together"] = together
    platform.commands["hello"] = hello
    async with AsyncClient(base_url=platform.base_url, api_key=KEY) as client:
        async with await AsyncSandbox.create(client=client) as sandbox:
            await asyncio.gather(*(sandbox.commands.run("together") for _ in range(20)))
            for _ in range(20):
                await sandbox.commands.run("hello")
    assert platform.accepted == 20


async def test_input_beside_output(platform: Platform) -> None:
    async def cat(to: Exchange) -> None:
        await platform.stdin_closed.wait()
        await to.stdout(bytes(platform.stdin))
        await to.exit()

    platform.commands["cat"] = cat
    async with AsyncClient(base_url=platform.base_url, api_key=KEY) as client:
        async with await AsyncSandbox.create(client=client) as sandbox:
            assert (await sandbox.commands.run("cat", stdin="ä" * 100_000)).stdout == "ä" * 100_000


async def test_cancelling_kills_the_command(platform: Platform) -> None:
    started = asyncio.Event()

    async def runs(to: Exchange) -> None:
        await to.stdout(b"x")
        await platform.release.wait()

    platform.commands["runs"] = runs
    async with AsyncClient(base_url=platform.base_url, api_key=KEY) as client:
        async with await AsyncSandbox.create(client=client) as sandbox:
            task = asyncio.create_task(sandbox.commands.run("runs", on_stdout=lambda _: started.set()))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert platform.killed.is_set()


async def test_errors_are_the_same(platform: Platform) -> None:
    async with AsyncClient(base_url=platform.base_url, api_key=KEY) as client:
        async with await AsyncSandbox.create(client=client) as sandbox:
            with pytest.raises(wrenn.InvalidRequestError):
                await sandbox.commands.run("nothing")
            await sandbox.pause()
            with pytest.raises(wrenn.SandboxNotRunningError, match="is paused"):
                await sandbox.files.read("a")


def test_each_event_loop_has_its_own_client(platform: Platform) -> None:
    platform.commands["hello"] = hello

    async def main() -> AsyncClient:
        async with await AsyncSandbox.create(base_url=platform.base_url, api_key=KEY) as sandbox:
            await sandbox.commands.run("hello")
            return sandbox.client

    assert asyncio.run(main()) is not asyncio.run(main())
