"""`make bench`: a platform of its own, measured beside the floor, the two interleaved round by round."""

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import other_host, report
from bench.floor import COMMAND, Template, Vm, milliseconds, pss, slot
from bench.report import Figure
from wrenn import AsyncClient, AsyncSandbox
from wrenn_server.hostagent.sandbox.journal import Entry, Journal
from wrenn_server.hostagent.storage import sealed
from wrenn_server.hostagent.storage.paths import OVERLAY
from wrenn_server.model.sandbox import Shape
from wrenn_server.up import demo, down, start
from wrenn_server.up.settings import Settings

ROUNDS = 20
SETTINGS = Settings(
    data_dir=Path("/var/lib/wrenn-bench"),
    listen=f"127.0.0.1:{demo.free_port()}",
    agent_listen=f"127.0.0.1:{demo.free_port()}",
    network="10.217.0.0/16",
    uid_base=50000,
)
REFILL = 4.0
"""Seconds in which the agent has prepared what it does between one burst and the next; it tells nobody when."""
FORKS, CREATES = 10, 20
PARTS = ("one", "many", "warm", "elsewhere")
CORES = len(os.sched_getaffinity(0))


class Bench:
    """Samples of one run, by name; `floor_<name>` beside `<name>`."""

    def __init__(
        self, client: AsyncClient, template: Template, scratch: Path, namespaces: Sequence[str]
    ) -> None:
        self.client = client
        self.template = template
        self.scratch = scratch
        self.namespace = namespaces[0]
        self.namespaces = namespaces
        """One for each of FORKS."""
        self.samples: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def figure(self, name: str, floor: str, unit: str, target: float | None) -> Figure:
        return Figure(
            name=name, samples=self.samples[name], unit=unit, floor=self.samples[floor], target=target
        )

    async def round(self) -> None:
        await asyncio.sleep(REFILL)
        await asyncio.to_thread(self.floor_round)
        await self.platform_round()

    @contextlib.contextmanager
    def floor_vm(self, usable: str, to_output: str) -> Generator[tuple[Vm, socket.socket]]:
        """A VM by hand, with an overlay of its own; how long it took until it was usable, and to its first output."""
        overlay = self.scratch / "overlay.ext4"
        self.template.clone_overlay(overlay)
        began = time.perf_counter()
        vm = Vm(self.template, self.namespace, overlay)
        try:
            vm.init()
            self.note(usable, milliseconds(began))
            connection = vm.connect()
            vm.run(COMMAND, connection)
            self.note(to_output, milliseconds(began))
            yield vm, connection
        finally:
            vm.kill()

    def floor_round(self) -> None:
        state = self.scratch / "state"
        with self.floor_vm("floor_usable", "floor_create") as (vm, connection):
            for _ in range(2):
                began = time.perf_counter()
                vm.run("true", connection)
                self.note("floor_exec", milliseconds(began))
            self.note("floor_pss", vm.pss() / 1e6)
            connection.close()
            began = time.perf_counter()
            vm.pause_to(state)
            self.note("floor_pause", milliseconds(began))
        began = time.perf_counter()
        resumed = Vm(self.template, self.namespace, self.scratch / "overlay.ext4", stream=state)
        try:
            resumed.init()
            self.note("floor_resume", milliseconds(began))
        finally:
            resumed.kill()

    async def platform_round(self) -> None:
        began = time.perf_counter()
        sandbox = await AsyncSandbox.create(client=self.client, timeout=300)
        self.note("usable", milliseconds(began))
        await sandbox.commands.run(COMMAND, check=True)
        self.note("create_on_demand", milliseconds(began))
        for _ in range(2):
            began = time.perf_counter()
            await sandbox.commands.run("true", check=True)
            self.note("exec_true", milliseconds(began))
        self.note("idle_pss", pss(vm_process(sandbox.id)) / 1e6)
        began = time.perf_counter()
        await sandbox.pause()
        self.note("pause", milliseconds(began))
        began = time.perf_counter()
        await sandbox.resume()
        self.note("resume", milliseconds(began))
        await sandbox.kill()

    async def many_round(self) -> None:
        """Many at once, to the first output of each. The floor is one alone, times their number, divided by the cores."""
        await asyncio.sleep(REFILL)
        await asyncio.to_thread(self.floor_many)
        await asyncio.to_thread(self.floor_together)
        source = await AsyncSandbox.create(client=self.client, timeout=300)
        began = time.perf_counter()
        copies = await source.fork(FORKS)
        await asyncio.gather(*(copy.commands.run(COMMAND, check=True) for copy in copies))
        self.note("fork_10", milliseconds(began))
        await asyncio.gather(*(one.kill() for one in (source, *copies)))
        began = time.perf_counter()
        made = await asyncio.gather(*(self.first_output() for _ in range(CREATES)))
        self.note("create_20", milliseconds(began))
        await asyncio.gather(*(one.kill() for one in made))

    async def first_output(self) -> AsyncSandbox:
        sandbox = await AsyncSandbox.create(client=self.client, timeout=300)
        await sandbox.commands.run(COMMAND, check=True)
        return sandbox

    def floor_many(self) -> None:
        with self.floor_vm("floor_one_usable", "floor_one") as (_, connection):
            connection.close()
        alone = self.samples["floor_one"][-1]
        self.note("floor_fork_10", alone * FORKS / CORES)
        self.note("floor_create_20", alone * CREATES / CORES)

    def floor_together(self) -> None:
        """As many bare VMs as forks, as many on their way as there are cores; each runs on until the last has answered,
        as forks do. What one alone cannot tell: beside others a VM needs more processor time for the same (440 to 470 ms
        alone, 500 to 510 with one beside it, 570 to 600 with three), and a lone one does not fill one core."""
        overlays = [self.scratch / f"overlay-{number}.ext4" for number in range(FORKS)]
        for overlay in overlays:
            self.template.clone_overlay(overlay)
        vms: list[Vm] = []

        def first_output(namespace: str, overlay: Path) -> None:
            vm = Vm(self.template, namespace, overlay)
            vms.append(vm)
            vm.init()
            with contextlib.closing(vm.connect()) as connection:
                vm.run(COMMAND, connection)

        try:
            with ThreadPoolExecutor(CORES) as threads:
                began = time.perf_counter()
                list(threads.map(first_output, self.namespaces, overlays))
                self.note("restore_10", milliseconds(began))
        finally:
            for vm in vms:
                vm.kill()

    async def warm_round(self) -> None:
        """The agent keeps one VM ready."""
        await asyncio.sleep(REFILL)
        await asyncio.to_thread(self.floor_restore)
        began = time.perf_counter()
        sandbox = await AsyncSandbox.create(client=self.client, timeout=300)
        self.note("create_warm", milliseconds(began))
        await sandbox.commands.run(COMMAND, check=True)
        self.note("warm_to_output", milliseconds(began))
        await sandbox.kill()

    def floor_restore(self) -> None:
        with self.floor_vm("floor_restore", "floor_restore_to_output") as (_, connection):
            connection.close()

    def figures(self) -> list[Figure]:
        """Of the parts that were measured."""
        every = [
            ("create_on_demand", "floor_create", "ms", 1.10),
            ("create_warm", "floor_restore", "ms", 0.2),
            ("warm_to_output", "floor_restore_to_output", "ms", None),
            ("exec_true", "floor_exec", "ms", 1.3),
            ("pause", "floor_pause", "ms", 1.2),
            ("resume", "floor_resume", "ms", 1.1),
            ("fork_10", "floor_fork_10", "ms", 1.3),
            ("restore_10", "floor_fork_10", "ms", None),
            ("create_20", "floor_create_20", "ms", None),
            ("idle_pss", "floor_pss", "MB", 1.05),
        ]
        return [self.figure(*one) for one in every if one[0] in self.samples]


def vm_process(sandbox_id: str) -> int:
    """The VMM process of a sandbox, by its journal."""
    for entry in Journal(SETTINGS.data_dir / "sandboxes").load():
        if isinstance(entry, Entry) and entry.id == sandbox_id and entry.vm is not None:
            return int(entry.vm["pid"])
    raise RuntimeError(f"no VMM of {sandbox_id}")


def find_template(data_dir: Path) -> Template:
    """The default shape's memory snapshot as the agent made it."""
    shape = f"minimal-{Shape.VCPUS_DEFAULT}-{Shape.MEMORY_DEFAULT}-{Shape.DISK_DEFAULT}-*"
    directory = next((data_dir / "templates").glob(shape))
    return Template(
        root_image=data_dir / "images/minimal.ext4",
        directory=directory / sealed.MEMORY,
        overlay=directory / OVERLAY,
        vcpus=Shape.VCPUS_DEFAULT,
        memory_mb=Shape.MEMORY_DEFAULT,
    )


async def measure(console: Console, rounds: int, parts: Sequence[str]) -> list[Figure]:
    await start.start(replace(SETTINGS, warm=0), console)
    scratch = SETTINGS.data_dir / "bench"
    scratch.mkdir(exist_ok=True)
    try:
        async with demo.client_of(SETTINGS) as client:
            with contextlib.ExitStack() as stack:
                namespaces = [stack.enter_context(slot(f"wrenn-floor-{n}")) for n in range(FORKS)]
                bench = Bench(client, find_template(SETTINGS.data_dir), scratch, namespaces)
                await bench.round()  # warms caches of both; not counted
                bench.samples.clear()
                for number in range(rounds):
                    if "one" in parts:
                        await bench.round()
                    if "many" in parts:
                        await bench.many_round()
                    console.print(f"round {number + 1} of {rounds}", highlight=False)
                if "warm" in parts:
                    await down.stop(SETTINGS, kill=True)
                    await start.start(replace(SETTINGS, warm=1), console)
                    await (await AsyncSandbox.create(client=client, timeout=300)).kill()
                    for number in range(rounds):
                        await bench.warm_round()
                        console.print(f"warm round {number + 1} of {rounds}", highlight=False)
                if "elsewhere" not in parts:
                    return bench.figures()
                await down.stop(SETTINGS, kill=True)
                elsewhere = await other_host.measure(
                    replace(SETTINGS, warm=0, object_store=os.fspath(scratch / "objects")),
                    console,
                    bench.namespace,
                    rounds,
                )
                return [*bench.figures(), *elsewhere]
    finally:
        await down.stop(SETTINGS, kill=True)
        await down.purge(SETTINGS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="of which only all are kept")
    words = parser.parse_args()
    console = Console()
    figures = asyncio.run(measure(console, words.rounds, words.parts))
    report.show(figures, console)
    if {*words.parts} == {*PARTS}:
        report.write(figures, report.machine())
    return 0


sys.exit(main())
