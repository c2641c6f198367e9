"""Resume on another host: what was paused on a host that is lost goes on from the object store, to its first output.

The floor is the same by a plain script: the same chunks read from the same store, unpacked and written where they belong,
and a QEMU that loads them. It proves no chunk, waits for no disk and asks nobody; but it has all of them first.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import msgspec
import zstandard
from rich.console import Console

from bench.floor import COMMAND, Template, Vm, milliseconds
from bench.report import Figure
from wrenn import AsyncClient, AsyncSandbox
from wrenn_server.hostagent.sandbox.journal import Entry
from wrenn_server.hostagent.storage import chunks, sealed
from wrenn_server.hostagent.storage.paths import OVERLAY
from wrenn_server.hostagent.storage.store import Stored
from wrenn_server.hostagent.vmm import memory_image
from wrenn_server.images.build import ensure_all
from wrenn_server.linux import child
from wrenn_server.up import demo, down, start, supervisor
from wrenn_server.up.administrator import ask, signed_in
from wrenn_server.up.progress import Bars
from wrenn_server.up.settings import Settings

LOOK_SEC = 0.5
"""Between two looks at what another process does and tells nobody."""
LARGE_ROUNDS = 4
LARGE = "head -c 256M /dev/urandom > ~/large; sync; echo 3 | sudo tee /proc/sys/vm/drop_caches"
"""A disk that takes longer to be fetched than a VM to be started."""
STORED_WITHIN, HOST_WITHIN = 120.0, 150.0
"""Seconds; a silent host counts as lost after 90."""
MEMORY = f"{sealed.MEMORY}/{memory_image.NAME}"


async def measure(settings: Settings, console: Console, namespace: str, rounds: int) -> list[Figure]:
    """A platform on one host, and a second host that makes `rounds` + 1 sandboxes, LARGE_ROUNDS large ones, and is lost.

    :param settings: of the platform, with an object store; it does not run yet
    :param namespace: for VMs of the floor
    """
    lost = replace(
        settings,
        data_dir=settings.data_dir.with_name(settings.data_dir.name + "-lost"),
        agent_listen=f"127.0.0.1:{demo.free_port()}",
        network="10.219.0.0/16",
        uid_base=settings.uid_base + 1000,
    )
    await start.start(settings, console)
    async with demo.client_of(settings) as client, signed_in(settings) as administrator:
        [stays] = await ask(administrator, "GET", "/v1/hosts")
        # Nothing new comes to a host that is drained: all are made on the other one.
        await ask(administrator, "POST", f"/v1/hosts/{stays['id']}/drain")
        async with second_host(lost, administrator, console) as goes:
            await until_it_is(administrator, goes, "online")
            small = [await left(client, COMMAND) for _ in range(rounds + 1)]
            large = [await left(client, LARGE) for _ in range(LARGE_ROUNDS)]
            await until_stored(administrator, goes, {sandbox.id for sandbox in (*small, *large)})
        await until_it_is(administrator, goes, "unreachable")
        await ask(administrator, "DELETE", f"/v1/hosts/{stays['id']}/drain")
        floor = Floor(settings, namespace)
        taken: list[float] = []
        for number, sandbox in enumerate((*small, *large)):
            await asyncio.to_thread(floor.resume, sandbox.id)
            began = time.perf_counter()
            await sandbox.resume()
            await sandbox.commands.run(COMMAND, check=True)
            taken.append(milliseconds(began))
            await sandbox.kill()
            console.print(f"other host, round {number} of {rounds + LARGE_ROUNDS}", highlight=False)
    end = len(small)
    return [
        figure("resume_elsewhere", taken[1:end], floor.taken[1:end]),
        figure("resume_elsewhere_large", taken[end:], floor.taken[end:]),
        # The first sandbox of its template brings the template's memory with it, which the others share.
        figure("resume_elsewhere_first", taken[:1], floor.taken[:1]),
    ]


async def left(client: AsyncClient, script: str) -> AsyncSandbox:
    """Paused after a script has run in it."""
    sandbox = await AsyncSandbox.create(client=client, timeout=0)
    await sandbox.commands.run(script, check=True)
    await sandbox.pause()
    return sandbox


def figure(name: str, samples: list[float], floor: list[float]) -> Figure:
    return Figure(name=name, samples=samples, unit="ms", floor=floor, target=1.15)


@contextlib.asynccontextmanager
async def second_host(
    settings: Settings, administrator: httpx2.AsyncClient, console: Console
) -> AsyncGenerator[str]:
    """Its id. At the end nothing is left of it but its record."""
    start.make_directories(settings)
    try:
        with Bars(console) as bars:
            await ensure_all(settings.data_dir, start.envd_binary(), bars, cache_dir=settings.cache_dir)
        made = await ask(administrator, "POST", "/v1/hosts", json={"type": "regular"})
        async with child.kept(
            "wrenn-agent",
            supervisor.agent_command(settings, made["registration_token"]),
            env=supervisor.agent_environment(settings),
            directory=settings.run_dir,
            log=settings.logs_dir / "wrenn-agent.log",
            ready_timeout=supervisor.READY_TIMEOUT,
        ):
            yield made["host"]["id"]
    finally:
        await down.purge(settings)


async def until_stored(administrator: httpx2.AsyncClient, host_id: str, sandbox_ids: set[str]) -> None:
    """:raises TimeoutError:"""

    async def are_kept() -> bool:
        held = await ask(administrator, "GET", f"/v1/hosts/{host_id}/delete-preview")
        return sandbox_ids <= set(held["kept_sandbox_ids"])

    await until(are_kept, within=STORED_WITHIN)


async def until_it_is(administrator: httpx2.AsyncClient, host_id: str, status: str) -> None:
    """:raises TimeoutError:"""

    async def is_so() -> bool:
        return (await ask(administrator, "GET", f"/v1/hosts/{host_id}"))["status"] == status

    await until(is_so, within=HOST_WITHIN)


async def until(check: Callable[[], Awaitable[bool]], *, within: float) -> None:
    """:raises TimeoutError:"""
    async with asyncio.timeout(within):
        while not await check():  # noqa: ASYNC110 - what it waits for is another process
            await asyncio.sleep(LOOK_SEC)


@dataclass(slots=True)
class Floor:
    """Resumes of stored sandboxes by a plain script."""

    settings: Settings
    namespace: str
    taken: list[float] = field(default_factory=list[float])
    """Milliseconds to the first output."""
    _templates: dict[str, Template] = field(default_factory=dict[str, Template])
    """Memory that several sandboxes share, by its content."""

    @property
    def objects(self) -> Path:
        return Path(self.settings.object_store or "")

    def resume(self, sandbox_id: str) -> None:
        scratch = self.settings.data_dir / "bench" / sandbox_id
        (scratch / sealed.MEMORY).mkdir(parents=True)
        [manifest] = (self.objects / "sandboxes" / sandbox_id).iterdir()
        began = time.perf_counter()
        stored = msgspec.json.decode(manifest.read_bytes(), type=Stored)
        entry = msgspec.convert(stored.journal, Entry)
        shared = stored.files[MEMORY].digest
        self._fetch(stored, (part for part in stored.files if part != MEMORY), scratch)
        if shared not in self._templates:
            self._templates[shared] = self._template(stored, entry, shared)
        vm = Vm(
            self._templates[shared],
            self.namespace,
            scratch / OVERLAY,
            snapshot=scratch / sealed.MEMORY,
            token=entry.access_token,
        )
        try:
            vm.init()
            with contextlib.closing(vm.connect()) as connection:
                vm.run(COMMAND, connection)
            self.taken.append(milliseconds(began))
        finally:
            vm.kill()

    def _template(self, stored: Stored, entry: Entry, name: str) -> Template:
        directory = self.settings.data_dir / "bench" / name
        (directory / sealed.MEMORY).mkdir(parents=True)
        self._fetch(stored, [MEMORY], directory)
        return Template(
            root_image=self.settings.data_dir / "images/minimal.ext4",
            directory=directory / sealed.MEMORY,
            overlay=directory / OVERLAY,
            vcpus=entry.vcpus,
            memory_mb=entry.memory_mb,
        )

    def _fetch(self, stored: Stored, parts: Iterable[str], directory: Path) -> None:
        with contextlib.ExitStack() as opened, ThreadPoolExecutor(os.cpu_count()) as threads:
            placed: list[Future[None]] = []
            for part in parts:
                content = stored.files[part]
                chunks.make(directory / part, content)
                target = opened.enter_context(writable(directory / part))
                placed += [
                    threads.submit(self._place, name, target, number * chunks.CHUNK)
                    for number, name in content.chunks.items()
                ]
            for one in placed:
                one.result()

    def _place(self, name: str, target: int, offset: int) -> None:
        packed = (self.objects / chunks.path_of(name)).read_bytes()
        os.pwrite(target, zstandard.ZstdDecompressor().decompress(packed), offset)


@contextlib.contextmanager
def writable(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
