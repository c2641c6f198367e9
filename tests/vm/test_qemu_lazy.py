"""The QEMU driver and a disk that comes from an NBD server until it is a file."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.qemu_vms import Template, driver, places, ready, run, template
from support.vm_places import VmPlace, VmPlaces
from wrenn_server.hostagent.sandbox.lazy_disk import LazyDisk
from wrenn_server.hostagent.storage import chunks, lazy
from wrenn_server.hostagent.vmm.base import disk_socket
from wrenn_server.hostagent.vmm.qemu import QemuDriver
from wrenn_server.hostagent.vmm.qemu_command import LAZY_NODE, OVERLAY_NODE, file_node
from wrenn_server.hostagent.vmm.qemu_vm import QemuVm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]
__all__ = ["driver", "places", "template"]


class Disk:
    """A lazy copy of the template's overlay."""

    def __init__(self, template: Template, where: VmPlace, directory: Path) -> None:
        self.template, self.where, self.directory = template, where, directory
        with template.overlay.open("rb") as file:
            self.content = chunks.content_of(file.fileno())
        self.by_name = {name: number for number, name in self.content.chunks.items()}
        lazy.prepare(where.overlay, directory, self.content, owner=where.place.uid)

    async def fetch(self, name: str) -> bytes:
        with self.template.overlay.open("rb") as file:
            return chunks.read(file.fileno(), self.by_name[name])

    def served(self) -> LazyDisk:
        place = self.where.place
        return LazyDisk(
            self.where.overlay, self.directory, self.fetch, listen=disk_socket(place), uid=place.uid
        )


@pytest.fixture
def disk(template: Template, places: VmPlaces, tmp_path: Path) -> Disk:
    return Disk(template, places.make(), tmp_path / "lazy")


async def nodes(vm: QemuVm) -> set[str]:
    found: list[dict[str, Any]] = await monitor(vm).execute("query-named-block-nodes", {"flat": True})
    return {node["node-name"] for node in found if node["node-name"].startswith(OVERLAY_NODE)}


def monitor(vm: QemuVm) -> Any:
    return vm._monitor  # what an agent that dies has sent of `settle`


async def add_file(vm: QemuVm, overlay: Path) -> None:
    flags = os.O_RDWR | os.O_NOFOLLOW
    answers, _ = vm._file(OVERLAY_NODE, overlay, 1002, flags)
    await asyncio.gather(*answers)


@pytest.mark.parametrize("died", ["before", "with the file added", "with the drive reopened"])
async def test_a_lazy_disk_becomes_a_file(driver: QemuDriver, disk: Disk, tmp_path: Path, died: str) -> None:
    """Whatever an agent had done of it before it died."""
    where = disk.where
    spec = replace(where.spec(disk.template.data, memory_mb=256), lazy=True)
    async with disk.served() as served, driver.restore(spec, where.place, disk.template.snapshot) as vm:
        await ready(where)
        await run(where, "echo lazy > /root/mark; sync")
        assert await nodes(vm) == {OVERLAY_NODE, LAZY_NODE}
        await served.until_whole(60)
        if died != "before":
            await add_file(vm, where.overlay)
        if died == "with the drive reopened":
            options = {"driver": "raw", "node-name": OVERLAY_NODE, "file": file_node(OVERLAY_NODE)}
            cache = {"direct": False, "no-flush": True}
            options |= {"read-only": False, "discard": "unmap", "cache": cache}
            await monitor(vm).execute("blockdev-reopen", {"options": [options]})
            await run(where, "echo file > /root/mark; sync")
        await vm.settle(where.overlay)
        assert await nodes(vm) == {OVERLAY_NODE, file_node(OVERLAY_NODE)}
        await vm.settle(where.overlay)  # idempotent
        await served.forget()
        expected = "lazy\n" if died != "with the drive reopened" else "file\n"
        forget = "sync; echo 3 > /proc/sys/vm/drop_caches"
        assert await run(where, f"{forget}; cat /root/mark") == expected
        await run(where, f"echo settled > /root/mark; {forget}")
        await vm.pause()
        saved = tmp_path / "saved"
        saved.mkdir()
        await vm.snapshot(saved)
    assert b"settled\n" in where.overlay.read_bytes()
    assert not disk.directory.exists()
