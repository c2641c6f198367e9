"""The QEMU driver with the real guest: Debian's kernel, our initrd, root file system and envd."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.qemu_vms import Template, driver, places, ready, run, template
from support.small_disk import SmallDisk, small_disk
from support.vm_places import VmPlace, VmPlaces, vm_places
from wrenn_server.hostagent.vmm.base import VmGone, VmmError
from wrenn_server.hostagent.vmm.qemu import QemuDriver
from wrenn_server.linux.cgroup import Cgroups
from wrenn_server.model.sandbox import Reason

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]
__all__ = ["driver", "places", "template"]


async def run_to_death(where: VmPlace, command: str) -> None:
    """Runs what ends the guest; an answer never comes."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        await asyncio.to_thread(where.guest.run, command, 1.0)


async def test_a_template_is_restored_many_times_and_never_changes(
    driver: QemuDriver, places: VmPlaces, template: Template
) -> None:
    before = digest(template.snapshot)
    first, second = places.make(), places.make()
    async with (
        driver.restore(template.spec(first), first.place, template.snapshot),
        driver.restore(template.spec(second), second.place, template.snapshot),
    ):
        await asyncio.gather(ready(first), ready(second))
        await run(first, "echo first > /root/mark; dd if=/dev/urandom of=/dev/shm/fill bs=1M count=32")
        assert await run(second, "cat /root/mark 2>&1 || true") != "first\n"
        assert await run(first, "cat /root/mark") == "first\n"
    assert digest(template.snapshot) == before
    assert list(first.place.directory.iterdir()) == []


async def test_pause_and_restore_keep_memory_and_processes(
    driver: QemuDriver, places: VmPlaces, template: Template, tmp_path: Path
) -> None:
    where, again, third = places.make(), places.make(), places.make()
    paused, twice = tmp_path / "paused", tmp_path / "twice"
    paused.mkdir()
    async with driver.restore(template.spec(where), where.place, template.snapshot) as vm:
        await ready(where)
        counter = "(i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.1; done) & echo $!"
        pid = (await run(where, f"setsid sh -c '{counter}' > /dev/shm/pid; cat /dev/shm/pid")).strip()
        await run(where, "while [ ! -s /dev/shm/count ]; do sleep 0.05; done; echo kept > /dev/shm/mark")
        await vm.pause()
        await vm.pause()  # idempotent
        await vm.snapshot(paused)
        await vm.resume()  # a snapshot does not end the VM
        assert await run(where, "cat /dev/shm/mark") == "kept\n"
        await vm.pause()
        again.copy_overlay(where.overlay)
        # The template's pages are not written again.
        assert (paused / "memory").stat().st_ino == (template.snapshot / "memory").stat().st_ino
        assert (paused / "changes").stat().st_size < (template.snapshot / "memory").stat().st_blocks * 512
    async with driver.restore(again.spec(template.data), again.place, paused) as vm_again:
        await asyncio.to_thread(again.guest.wait)
        assert await run(again, "cat /dev/shm/mark") == "kept\n"
        assert await run(again, f"kill -0 {pid} && echo alive") == "alive\n"
        await vm_again.pause()
        twice.mkdir()
        await vm_again.snapshot(twice)
        third.copy_overlay(again.overlay)
    shutil.rmtree(paused)
    async with driver.restore(third.spec(template.data), third.place, twice):
        again = third
        await asyncio.to_thread(again.guest.wait)
        assert await run(again, "cat /dev/shm/mark") == "kept\n"
        count = await run(again, "cat /dev/shm/count")
        assert int(await run(again, "sleep 1; cat /dev/shm/count")) > int(count)


async def test_a_detached_vm_goes_on_and_is_adopted(
    driver: QemuDriver, places: VmPlaces, template: Template, tmp_path: Path
) -> None:
    where = places.make()
    spec = template.spec(where)
    async with driver.restore(spec, where.place, template.snapshot) as vm:
        await ready(where)
        await run(where, "echo kept > /dev/shm/mark; echo on the console > /dev/console")
        record = vm.record()
        vm.detach()
    async with QemuDriver(cgroups=Cgroups.detect()) as other:
        async with other.adopt(spec, where.place, record) as adopted:
            assert adopted.pid == record["pid"]
            assert await run(where, "cat /dev/shm/mark") == "kept\n"
            await run(where, "echo after adoption > /dev/console")
            assert "after adoption" in await adopted.console()
            await adopted.pause()
            (tmp_path / "adopted").mkdir()
            await adopted.snapshot(tmp_path / "adopted")
            assert (tmp_path / "adopted/changes").exists()
            await adopted.resume()
            assert await run(where, "cat /dev/shm/mark") == "kept\n"
        assert not Path(f"/proc/{record['pid']}/exe").exists()
        assert Cgroups.detect().children(places.cgroup) == []
        with pytest.raises(VmGone):
            async with other.adopt(spec, where.place, record):
                pass


async def test_a_snapshot_whose_template_is_gone_is_whole(
    driver: QemuDriver, places: VmPlaces, template: Template, tmp_path: Path
) -> None:
    where, again = places.make(), places.make()
    alone, saved = tmp_path / "alone", tmp_path / "saved"
    shutil.copytree(template.snapshot, alone)
    saved.mkdir()
    async with driver.restore(template.spec(where), where.place, alone) as vm:
        await ready(where)
        await run(where, "echo kept > /dev/shm/mark")
        shutil.rmtree(alone)
        await vm.pause()
        await vm.snapshot(saved)
        assert not (saved / "changes").exists()
        again.copy_overlay(where.overlay)
    async with driver.restore(again.spec(template.data), again.place, saved):
        await asyncio.to_thread(again.guest.wait)
        assert await run(again, "cat /dev/shm/mark") == "kept\n"


async def test_a_running_vm_is_not_torn_into_a_snapshot(
    driver: QemuDriver, places: VmPlaces, template: Template, tmp_path: Path
) -> None:
    where = places.make()
    async with driver.restore(template.spec(where), where.place, template.snapshot) as vm:
        with pytest.raises(VmmError, match="of a running VM"):
            await vm.snapshot(tmp_path)
        assert list(tmp_path.glob("state")) == []


async def test_the_process_is_confined(driver: QemuDriver, places: VmPlaces, template: Template) -> None:
    where = places.make()
    async with driver.restore(template.spec(where), where.place, template.snapshot) as vm:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{vm.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        uid = str(where.place.uid)
        assert status["Uid"].split() == [uid] * 4
        assert status["Gid"].split() == [uid] * 4
        assert status["Groups"].split() == []
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        # Children of QEMU's namespace: nothing but a loopback device that is down.
        namespaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in (vm.pid, os.getpid())}
        assert len(namespaces) == 2
        assert os.stat(where.place.netns).st_ino != os.stat(f"/proc/{vm.pid}/ns/net").st_ino
        devices = Path(f"/proc/{vm.pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
        assert vm.pid in Cgroups.detect().open(where.place.cgroup).pids()
        assert re.search(
            r"^Max core file size +0 +0 ", Path(f"/proc/{vm.pid}/limits").read_text(), re.MULTILINE
        )
        environment = Path(f"/proc/{vm.pid}/environ").read_text().split("\0")
        assert {entry.partition("=")[0] for entry in environment} <= {"PATH", "PWD", ""}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo b > /proc/sysrq-trigger", Reason.GUEST_SHUTDOWN),
        ("echo c > /proc/sysrq-trigger", Reason.KERNEL_PANIC),
    ],
    ids=["reboot", "panic"],
)
async def test_the_end_of_a_guest_has_a_reason(
    driver: QemuDriver, places: VmPlaces, template: Template, command: str, reason: Reason
) -> None:
    where = places.make()
    async with driver.restore(template.spec(where), where.place, template.snapshot) as vm:
        await ready(where)
        await run_to_death(where, f"echo 1 > /proc/sys/kernel/sysrq; {command}")
        end = await vm.wait()
        assert end.reason is reason, end
        if reason is Reason.KERNEL_PANIC:
            assert "Kernel panic" in end.detail
            assert "Kernel panic" in end.console


async def test_a_vm_beyond_its_memory_ends_alone(
    driver: QemuDriver, places: VmPlaces, template: Template
) -> None:
    victim, neighbour = places.make(), places.make()
    async with (
        driver.restore(template.spec(victim), victim.place, template.snapshot) as vm,
        driver.restore(template.spec(neighbour), neighbour.place, template.snapshot),
    ):
        await asyncio.gather(ready(victim), ready(neighbour))
        group = Cgroups.detect().open(victim.place.cgroup)
        tight = str(group.memory_current() + (8 << 20))
        name = "memory.max" if group.version == 2 else "memory.limit_in_bytes"
        (group.directories["memory"] / name).write_text(tight)
        await run_to_death(victim, "dd if=/dev/zero of=/dev/shm/fill bs=1M count=100")
        end = await vm.wait()
        assert end.reason is Reason.OOM_KILLED, end
        assert await run(neighbour, "echo here") == "here\n"


async def test_a_crash_of_qemu_is_told(driver: QemuDriver, places: VmPlaces, template: Template) -> None:
    where = places.make()
    async with driver.restore(template.spec(where), where.place, template.snapshot) as vm:
        os.kill(vm.pid, 11)
        end = await vm.wait()
        assert end.reason is Reason.VMM_CRASHED
        assert "signal 11" in end.detail
        with pytest.raises(VmmError):
            await vm.pause()


async def test_a_snapshot_of_another_machine_is_refused(
    driver: QemuDriver, places: VmPlaces, template: Template
) -> None:
    where = places.make()
    with pytest.raises(VmmError, match="the machine differs"):
        async with driver.restore(template.spec(where, memory_mb=512), where.place, template.snapshot):
            pass


async def test_a_qemu_that_waits_takes_no_other_memory(
    driver: QemuDriver, places: VmPlaces, template: Template, tmp_path: Path
) -> None:
    where, other = places.make(), tmp_path / "other"
    shutil.copytree(template.snapshot, other)  # equal, but not the same
    async with driver.start(where.spec(template.data), where.place, template.snapshot) as waiting:
        assert driver.kind(where.spec(template.data), other) != waiting.kind
        with pytest.raises(VmmError, match="another memory"):
            await waiting.load(template.spec(where), other)
        with pytest.raises(VmmError, match="the machine differs"):
            await waiting.load(template.spec(where, memory_mb=512), template.snapshot)
        await waiting.load(template.spec(where), template.snapshot)
        await ready(where)
    assert list(where.place.directory.iterdir()) == []


async def test_a_damaged_snapshot_is_refused_and_leaves_nothing(
    driver: QemuDriver, places: VmPlaces, template: Template, tmp_path: Path
) -> None:
    where = places.make()
    damaged = tmp_path / "damaged"
    shutil.copytree(template.snapshot, damaged)
    content = bytearray((damaged / "state").read_bytes())
    content[100_000] ^= 1
    (damaged / "state").write_bytes(content)
    with pytest.raises(VmmError, match="state is damaged"):
        async with driver.restore(template.spec(where), where.place, damaged):
            pass
    # A manifest that agrees gets as far as QEMU.
    content[0:4] = b"nope"
    (damaged / "state").write_bytes(content)
    manifest = json.loads((damaged / "vmm.json").read_text())
    manifest["state_sha256"] = hashlib.sha256(content).hexdigest()
    (damaged / "vmm.json").write_text(json.dumps(manifest))
    with pytest.raises(VmmError, match=r"loading the snapshot: .*Not a migration stream"):
        async with driver.restore(template.spec(where), where.place, damaged):
            pass
    assert list(where.place.directory.iterdir()) == []
    assert Cgroups.detect().children(places.cgroup) == []


async def test_a_start_that_fails_says_why_and_leaves_nothing(
    driver: QemuDriver, places: VmPlaces, template: Template
) -> None:
    where = places.make()
    spec = template.spec(where)
    where.overlay.unlink()
    with pytest.raises(VmmError, match=r"overlay.*No such file|No such file.*overlay"):
        async with driver.restore(spec, where.place, template.snapshot):
            pass
    assert list(where.place.directory.iterdir()) == []
    assert Cgroups.detect().children(places.cgroup) == []


async def test_a_full_disk_fails_the_snapshot_and_the_vm_goes_on(
    driver: QemuDriver, places: VmPlaces, template: Template, tmp_path: Path
) -> None:
    where = places.make()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", small], check=True)  # noqa: ASYNC221
    try:
        async with driver.restore(template.spec(where), where.place, template.snapshot) as vm:
            await ready(where)
            await vm.pause()
            (small / "fill").write_bytes(b"\0" * (20 << 20))
            first, second = small / "first", small / "second"
            first.mkdir()
            await vm.snapshot(first)  # 280 MiB are free, and another file system: a whole one
            (small / "rest").write_bytes(b"\0" * (30 << 20))
            second.mkdir()
            with pytest.raises(OSError, match="memory snapshot"):
                await vm.snapshot(second)
            await vm.resume()
            assert await run(where, "echo here") == "here\n"
    finally:
        subprocess.run(["umount", small], check=True)  # noqa: ASYNC221


def digest(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, 256 << 20) as disk:
        yield disk


@pytest.fixture
def cramped(disk: SmallDisk) -> Iterator[VmPlaces]:
    yield from vm_places(disk.path / "places")


@pytest.mark.parametrize("meanwhile", ["nothing", "pause"])
async def test_a_guest_waits_while_the_disk_is_full(
    driver: QemuDriver, disk: SmallDisk, cramped: VmPlaces, template: Template, meanwhile: str
) -> None:
    """QEMU stops a guest whose write has no room on the host; it goes on when there is some, and has lost nothing."""
    where = cramped.make()
    async with driver.restore(template.spec(where), where.place, template.snapshot) as vm:
        await ready(where)
        disk.fill()
        monitor, stopped = vm._monitor, asyncio.Event()
        heard = monitor.on_event

        def listen(name: str, data: dict[str, Any]) -> None:
            heard(name, data)
            if name == "BLOCK_IO_ERROR":
                stopped.set()

        monitor.on_event = listen
        write = "dd if=/dev/urandom of=/root/big bs=1M count=8 conv=fsync"
        writing = asyncio.create_task(run(where, write))
        async with asyncio.timeout(60):
            await stopped.wait()
        if meanwhile == "pause":
            await vm.pause()
        disk.free()
        if meanwhile == "pause":
            await vm.resume()
        async with asyncio.timeout(60):
            await writing
            look = "stat -c %s /root/big; touch /root/more && echo writable"
            assert await run(where, look) == f"{8 << 20}\nwritable\n"
