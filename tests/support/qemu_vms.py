"""A guest of QEMU's driver, booted once for a test module, and what is done with one."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.vm_places import VmPlace, VmPlaces, vm_places
from wrenn_server.hostagent.vmm.base import VmSpec
from wrenn_server.hostagent.vmm.qemu import QemuDriver
from wrenn_server.linux.cgroup import Cgroups


@pytest.fixture
def places(tmp_path: Path) -> Iterator[VmPlaces]:
    yield from vm_places(tmp_path / "places-of-a-test")


@pytest.fixture
async def driver() -> AsyncIterator[QemuDriver]:
    async with QemuDriver(cgroups=Cgroups.detect()) as driver:
        yield driver


@dataclass
class Template:
    """A booted guest's snapshot with its disk."""

    data: Path
    snapshot: Path
    overlay: Path
    memory_mb: int

    def spec(self, where: VmPlace, *, memory_mb: int | None = None) -> VmSpec:
        where.copy_overlay(self.overlay)
        return where.spec(self.data, memory_mb=memory_mb or self.memory_mb)


@pytest.fixture(scope="module")
def template(guest_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    return make_template(guest_images, tmp_path_factory.mktemp("template"), 256)


def make_template(data: Path, directory: Path, memory_mb: int, *, overlay_mb: int = 256) -> Template:
    made = Template(data, directory / "snapshot", directory / "overlay.ext4", memory_mb)

    async def make() -> None:
        places = VmPlaces(directory / "places")
        try:
            where = places.make(overlay_mb=overlay_mb)
            spec = where.spec(data, memory_mb=memory_mb)
            async with (
                QemuDriver(cgroups=Cgroups.detect()) as driver,
                driver.boot(spec, where.place, template=True) as vm,
            ):
                await asyncio.to_thread(where.guest.wait)
                await vm.pause()
                made.snapshot.mkdir()
                await vm.snapshot(made.snapshot)
                shutil.copyfile(where.overlay, made.overlay)
        finally:
            places.close()

    asyncio.run(make())
    return made


async def ready(where: VmPlace) -> None:
    await asyncio.to_thread(where.guest.wait)
    await asyncio.to_thread(where.guest.init)


async def run(where: VmPlace, command: str) -> str:
    return await asyncio.to_thread(where.guest.run, command)
