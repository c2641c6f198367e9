"""The asynchronous SDK against a whole platform; the synchronous one, generated from it, has the longer tests."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import wrenn
from support.platforms import RunningPlatform
from wrenn import AsyncClient, AsyncSandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


@pytest_asyncio.fixture
async def client(platform: RunningPlatform) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(base_url=platform.base_url, api_key=platform.api_key) as client:
        yield client


async def test_a_whole_life(client: AsyncClient) -> None:
    async with await AsyncSandbox.create(client=client, timeout=600) as sandbox:
        seen: list[str] = []
        result = await sandbox.commands.run("echo out; echo err >&2; exit 3", on_stdout=seen.append)
        assert (result.stdout, result.stderr, result.exit_code, seen) == ("out\n", "err\n", 3, ["out\n"])
        data = os.urandom(1_000_000)
        await sandbox.files.write("a/b", data)
        assert await sandbox.files.read_bytes("a/b") == data
        [entry] = await sandbox.files.list("a")
        assert entry.size == len(data)
        await sandbox.pause()
        await sandbox.resume()
        [fork] = await sandbox.fork()
        async with fork:
            await fork.files.write("a/b", "other")
            assert await sandbox.files.read_bytes("a/b") == data
        assert sandbox.id in {info.id for info in await AsyncSandbox.list(client=client)}
    assert not await sandbox.is_running()


async def test_commands_run_at_the_same_time(client: AsyncClient) -> None:
    """Each waits for the next one's file: one after the other they would never end."""
    async with await AsyncSandbox.create(client=client, timeout=600) as sandbox:
        results = await asyncio.gather(
            *(
                sandbox.commands.run(
                    f"touch /tmp/{number}; until [ -e /tmp/{(number + 1) % 5} ]; do sleep 0.05; done; echo {number}"
                )
                for number in range(5)
            )
        )
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(5)]


async def test_cancelling_kills_the_command(client: AsyncClient) -> None:
    async with await AsyncSandbox.create(client=client, timeout=600) as sandbox:
        started = asyncio.Event()
        task = asyncio.create_task(
            sandbox.commands.run("echo x; sleep 1000", on_stdout=lambda _: started.set(), tag="long")
        )
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            while await sandbox.commands.list():  # noqa: ASYNC110 - the guest learns of it from a connection that closes
                await asyncio.sleep(0.05)


async def test_a_deadline(client: AsyncClient) -> None:
    async with await AsyncSandbox.create(client=client, timeout=600) as sandbox:
        with pytest.raises(wrenn.CommandTimeoutError):
            await sandbox.commands.run("sleep 1000", timeout=1)
