"""`wrenn demo`: the platform on this machine from nothing to nothing, each step timed.

It uses an installation of its own (data directory, ports, network, uids), so it never touches one that runs already.
"""

import os
import socket
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wrenn import AsyncClient, AsyncSandbox, CommandTimeoutError, WrennError
from wrenn_server.up import down, environment, inventory, start
from wrenn_server.up.settings import CACHE_DIR, Settings

DATA_DIR = Path("/var/lib/wrenn-demo")
NETWORK = "10.215.0.0/16"
UID_BASE = 40000
HOSTILE_SECONDS = 60
COUNTER = """
import pathlib, time
count = 0
while True:
    count += 1
    pathlib.Path("/tmp/count.new").write_text(str(count))
    pathlib.Path("/tmp/count.new").rename("/tmp/count")
    time.sleep(0.05)
"""
HOSTILE = """
import os
kept = []
while True:
    try:
        os.fork()
    except OSError:
        pass
    kept.append(b"x" * (32 << 20))
"""


class DemoFailed(Exception):
    """Something did not behave as promised; the message says what."""


class Times:
    """How long each step took, for the table at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float]] = []

    @asynccontextmanager
    async def of(self, what: str) -> AsyncGenerator[None, None]:
        began = time.perf_counter()
        yield
        self.rows.append((what, time.perf_counter() - began))


async def show(console: Console) -> int:
    """Runs the demo. Returns the exit code: 0 only if every promise held and nothing is left on the host."""
    settings = Settings(
        data_dir=DATA_DIR,
        cache_dir=Path(os.environ.get("WRENN_CACHE_DIR", CACHE_DIR)),
        listen=f"127.0.0.1:{free_port()}",
        agent_listen=f"127.0.0.1:{free_port()}",
        network=NETWORK,
        uid_base=UID_BASE,
    )
    times = Times()
    began = time.perf_counter()
    failure: str | None = None
    try:
        heading(console, "Starting Wrenn on this machine")
        await start.start(settings, console)
        async with client_of(settings) as client:
            await tour(console, client, times)
    except (DemoFailed, WrennError, start.CannotStart) as error:
        failure = str(error)
    finally:
        heading(console, "Removing everything")
        await down.stop(settings, kill=True)
        await down.purge(settings)
    if left := await inventory.remains(settings):
        failure = "\n".join([failure or "", "left on the host:", *left]).strip()
    else:
        say(
            console,
            "no process, namespace, link, rule, cgroup, mount or file of the demo is left on this host",
        )
    print_times(console, times)
    if failure is not None:
        console.print(f"[red]The demo failed:[/] {failure}", highlight=False)
        return 1
    console.print(f"[green]Done[/] in {time.perf_counter() - began:.0f} s. `make up` starts it to stay.")
    return 0


async def tour(console: Console, client: AsyncClient, times: Times) -> None:
    async with times.of("create, until usable"):
        sandbox = await AsyncSandbox.create(client=client, timeout=600)
    heading(console, f"A program analyses data in sandbox {sandbox.id}")
    await analyse(console, sandbox, times)
    heading(console, "A counter keeps counting across pause and resume")
    await pause_and_resume(console, sandbox, times)
    heading(console, "Three forks, each continues by itself")
    await forks(console, sandbox, times)
    heading(console, "A hostile program, and what its neighbour notices")
    await hostile(console, client, sandbox, times)


async def analyse(console: Console, sandbox: AsyncSandbox, times: Times) -> None:
    data = resources.files("wrenn_server.up") / "data"
    for name in ("penguins.csv", "analyse.py"):
        await sandbox.files.write(f"/home/user/{name}", (data / name).read_bytes())
    say(console, (await sandbox.commands.run("uname -srm; head -1 /etc/os-release")).stdout.strip())
    async with times.of("python3 analyse.py penguins.csv"):
        result = await sandbox.commands.run("python3 analyse.py penguins.csv", check=True)
    say(console, result.stdout.rstrip())
    async with times.of("a second, warm `true`"):
        await sandbox.commands.run("true", check=True)


async def pause_and_resume(console: Console, sandbox: AsyncSandbox, times: Times) -> None:
    await sandbox.files.write("/home/user/counter.py", COUNTER)
    handle = await sandbox.commands.run("exec python3 counter.py", background=True, timeout=None)
    await handle.disconnect()
    before = await beyond(5, sandbox)
    async with times.of("pause with memory"):
        await sandbox.pause()
    async with times.of("resume, until usable"):
        await sandbox.resume()
    after = await beyond(before, sandbox)
    alive = (await sandbox.commands.run(f"kill -0 {handle.pid} && echo alive")).stdout.strip()
    if alive != "alive":
        raise DemoFailed("the counter did not survive pause and resume")
    say(console, f"process {handle.pid} had counted to {before}, was on disk, and now is at {after}")


async def forks(console: Console, sandbox: AsyncSandbox, times: Times) -> None:
    at_fork = await count_of(sandbox)
    async with times.of("fork of 3, until all are usable"):
        children = await sandbox.fork(3)
    for index, child in enumerate(children):
        await child.files.write("/home/user/name", f"fork {index}")
    counts = [await beyond(at_fork, child) for child in children]
    names = [await child.files.read("/home/user/name") for child in children]
    if names != [f"fork {index}" for index in range(3)] or await sandbox.files.exists("/home/user/name"):
        raise DemoFailed(f"the forks are not independent: {names}")
    say(
        console,
        f"forked at {at_fork}; the forks are at {counts}, each with a disk, memory and clock of its own",
    )
    async with times.of("kill of 3"):
        for child in children:
            await child.kill()


async def hostile(console: Console, client: AsyncClient, neighbour: AsyncSandbox, times: Times) -> None:
    quiet = await latency(neighbour, 5)
    attacker = await AsyncSandbox.create(client=client, timeout=300)
    await attacker.files.write("/home/user/hostile.py", HOSTILE)
    async with times.of("hostile program, until it was ended"):
        bomb = await attacker.commands.run(
            "exec python3 hostile.py", background=True, timeout=HOSTILE_SECONDS
        )
        noisy = await latency(neighbour, 10)
        try:
            ended = await bomb.wait()
            how = f"{ended.status} ({ended.error})" if ended.error else ended.status
        except CommandTimeoutError as error:
            how = str(error)
    if not how:
        raise DemoFailed("the hostile program ended without a reason")
    say(console, f"it forked and took memory without end, and was ended: {how}")
    usual, meanwhile = (f"{seconds * 1000:.0f} ms" for seconds in (quiet, noisy))
    say(console, f"a `true` in the neighbour took {usual} before and {meanwhile} meanwhile (median)")
    await attacker.kill()


async def latency(sandbox: AsyncSandbox, rounds: int) -> float:
    taken: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        await sandbox.commands.run("true", check=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def count_of(sandbox: AsyncSandbox) -> int:
    return int(await sandbox.files.read("/tmp/count"))  # noqa: S108 - inside the sandbox


async def beyond(count: int, sandbox: AsyncSandbox) -> int:
    """The counter's value once it is larger than `count`; the sandbox itself waits.

    :raises DemoFailed: not within 20 seconds."""
    line = f'until [ "$(cat /tmp/count 2>/dev/null || echo 0)" -gt {count} ]; do sleep 0.05; done; cat /tmp/count'
    try:
        result = await sandbox.commands.run(line, timeout=20, check=True)
    except CommandTimeoutError as error:
        raise DemoFailed(f"the counter in {sandbox.id} does not count") from error
    return int(result.stdout)


def client_of(settings: Settings) -> AsyncClient:
    """A client with the credentials that `wrenn up` wrote."""
    variables = environment.read(settings.env_file)
    return AsyncClient(base_url=variables["WRENN_BASE_URL"], api_key=variables["WRENN_API_KEY"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]", highlight=False)


def say(console: Console, text: str) -> None:
    for line in text.splitlines():
        console.print(f"  {line}", highlight=False, markup=False)


def print_times(console: Console, times: Times) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("\nmeasured")
    table.add_column("\nseconds", justify="right")
    for what, seconds in times.rows:
        table.add_row(what, f"{seconds:.3f}")
    console.print(table)
