"""The Firecracker driver with the real binaries and the smallest of guests, which counts aloud."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import fake_firecracker as fake
from support.firecracker_binaries import VERSION, FirecrackerBinaries, firecracker_binaries
from support.vm_places import VmPlace, VmPlaces, vm_places
from wrenn_server.hostagent.vmm.base import VmGone, VmmError, VmSpec
from wrenn_server.hostagent.vmm.choice import prove
from wrenn_server.hostagent.vmm.firecracker import KERNEL_ARGS, FirecrackerDriver
from wrenn_server.hostagent.vmm.firecracker_api import ApiState, FirecrackerError
from wrenn_server.hostagent.vmm.firecracker_vm import FirecrackerVm
from wrenn_server.images.cache import Cache
from wrenn_server.images.progress import Silent
from wrenn_server.images.tiny import ensure_tiny
from wrenn_server.linux.cgroup import Cgroups
from wrenn_server.model.sandbox import Reason

pytestmark = [pytest.mark.firecracker, pytest.mark.timeout(60)]

MEMORY_MB = 64


@pytest.fixture(scope="module")
def binaries() -> FirecrackerBinaries:
    return firecracker_binaries()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `VmPlace.spec` looks: the small guest as kernel, disks that it never reads."""
    directory = tmp_path_factory.mktemp("data")
    for name in ("kernels", "images", "cache"):
        (directory / name).mkdir()
    tiny = asyncio.run(ensure_tiny(Cache(directory / "cache"), Silent()))
    shutil.copy(tiny, directory / "kernels/tiny.elf")
    for name in ("kernels/initrd", "images/minimal.ext4"):
        (directory / name).write_bytes(b"\0" * (1 << 20))
        (directory / name).chmod(0o444)
    return directory


@pytest.fixture
def places(tmp_path: Path) -> Iterator[VmPlaces]:
    yield from vm_places(tmp_path / "places")


@pytest.fixture
async def driver(binaries: FirecrackerBinaries) -> AsyncIterator[FirecrackerDriver]:
    async with open_driver(binaries) as driver:
        yield driver


def open_driver(binaries: FirecrackerBinaries) -> FirecrackerDriver:
    return FirecrackerDriver(
        cgroups=Cgroups.detect(), firecracker=binaries.firecracker, jailer=binaries.jailer
    )


def tiny(where: VmPlace, data: Path, kernel: str = "tiny.elf") -> VmSpec:
    return where.spec(data, kernel=kernel, memory_mb=MEMORY_MB)


async def ticks(vm: FirecrackerVm) -> list[int]:
    """What the guest has counted so far."""
    return [int(number, 16) for number in re.findall(r"tick ([0-9a-f]{8})\n", await vm.console())]


async def count_beyond(vm: FirecrackerVm, number: int) -> list[int]:
    """Waits until the guest has counted on; a serial console has no event but its output."""
    while True:
        seen = await ticks(vm)
        if seen and seen[-1] > number:
            return seen
        await asyncio.sleep(0.02)


async def save(vm: FirecrackerVm, directory: Path) -> int:
    """Pauses and snapshots; the last number that was counted."""
    await vm.pause()
    directory.mkdir()
    await vm.snapshot(directory)
    return (await ticks(vm))[-1]


def digest(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()}


def nothing_left(places: VmPlaces, where: VmPlace) -> bool:
    mounts = Path("/proc/self/mountinfo").read_text()
    return (
        list(where.place.directory.iterdir()) == []
        and Cgroups.detect().children(places.cgroup) == []
        and str(where.place.directory) not in mounts
    )


async def test_the_version_is_that_of_both_programs(driver: FirecrackerDriver) -> None:
    assert await driver.version() == VERSION


async def test_a_missing_binary_is_told_with_its_place(binaries: FirecrackerBinaries) -> None:
    driver = FirecrackerDriver(
        cgroups=Cgroups.detect(), firecracker=Path("/nowhere/firecracker"), jailer=binaries.jailer
    )
    with pytest.raises(VmmError, match="/nowhere/firecracker"):
        await driver.version()


async def test_the_guest_gets_its_arguments_and_runs(
    driver: FirecrackerDriver, places: VmPlaces, data: Path
) -> None:
    where = places.make()
    async with driver.boot(tiny(where, data), where.place) as vm:
        await count_beyond(vm, 2)
        assert f"cmdline={KERNEL_ARGS} " in await vm.console()
        assert await vm.api.state() is ApiState.RUNNING
    assert nothing_left(places, where)


async def test_pause_stops_the_guest_and_resume_goes_on(
    driver: FirecrackerDriver, places: VmPlaces, data: Path
) -> None:
    where = places.make()
    async with driver.boot(tiny(where, data), where.place) as vm:
        await count_beyond(vm, 1)
        await vm.pause()
        await vm.pause()
        assert await vm.api.state() is ApiState.PAUSED
        stopped = await ticks(vm)
        await asyncio.sleep(0.5)  # five ticks of a running guest; that nothing happens has no event
        assert await ticks(vm) == stopped
        await vm.resume()
        await vm.resume()
        seen = await count_beyond(vm, stopped[-1])
        assert seen == list(range(1, seen[-1] + 1))


async def test_a_snapshot_goes_on_in_many_vms_and_in_its_source(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, tmp_path: Path
) -> None:
    source, first, second = places.make(), places.make(), places.make()
    snapshot = tmp_path / "snapshot"
    async with driver.boot(tiny(source, data), source.place, template=True) as vm:
        await count_beyond(vm, 2)
        last = await save(vm, snapshot)
        before = digest(snapshot)
        async with (
            driver.restore(tiny(first, data), first.place, snapshot) as one,
            driver.restore(tiny(second, data), second.place, snapshot) as two,
        ):
            for fork in (one, two):
                seen = await count_beyond(fork, last + 3)
                assert seen[:4] == [last + 1, last + 2, last + 3, last + 4]
        await vm.resume()
        assert last + 1 in await count_beyond(vm, last)
    assert digest(snapshot) == before
    for file in snapshot.iterdir():
        assert file.stat().st_uid == 0
        assert file.stat().st_mode & 0o222 == 0 or file.name == "vmm.json"


async def test_the_snapshot_of_a_restored_vm_is_a_diff_on_a_copy(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, tmp_path: Path
) -> None:
    source, again, third = places.make(), places.make(), places.make()
    full, diff, next_diff = tmp_path / "full", tmp_path / "diff", tmp_path / "next"
    async with driver.boot(tiny(source, data), source.place) as vm:
        await count_beyond(vm, 1)
        await save(vm, full)
    before = digest(full)
    async with driver.restore(tiny(again, data), again.place, full) as vm:
        await count_beyond(vm, 3)
        await save(vm, diff)
        await vm.resume()
        shutil.rmtree(full)  # the next one builds on `diff`
        number = (await ticks(vm))[-1]
        await count_beyond(vm, number)
        last = await save(vm, next_diff)
        log = await asyncio.to_thread(lambda: vm._log.bytes().decode())
        assert log.count("'create diff snapshot' API request took") == 2
        assert "full snapshot" not in log
    assert before["memory"] != digest(diff)["memory"]
    assert (next_diff / "memory").stat().st_size == MEMORY_MB << 20
    async with driver.restore(tiny(third, data), third.place, next_diff) as vm:
        assert (await count_beyond(vm, last))[0] == last + 1


async def test_the_jail(driver: FirecrackerDriver, places: VmPlaces, data: Path) -> None:
    where = places.make()
    before = {name: (data / name).stat() for name in ("kernels/tiny.elf", "images/minimal.ext4")}
    async with driver.boot(tiny(where, data), where.place) as vm:
        process = Path("/proc") / str(vm.pid)
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line
        )
        uid = str(where.place.uid)
        assert status["Uid"].split() == status["Gid"].split() == [uid] * 4
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["NSpid"].split()[1:] == ["1"]
        assert len((process / "mountinfo").read_text().splitlines()) == 1
        assert (process / "ns/net").stat().st_ino == where.place.netns.stat().st_ino
        assert vm.pid in Cgroups.detect().open(where.place.cgroup).pids()
        assert "PATH" in (process / "environ").read_text() or (process / "environ").read_text() == ""
        inside = process / "root"
        assert {entry.name for entry in inside.iterdir()} == {
            "dev", "run", "firecracker", "firecracker.pid", "kernel", "initrd", "rootfs", "overlay", "log",
        }  # fmt: skip
        assert (inside / "overlay").stat().st_ino == where.overlay.stat().st_ino
        for name, stat in before.items():
            now = (data / name).stat()
            assert (now.st_uid, now.st_gid, now.st_mode) == (stat.st_uid, stat.st_gid, stat.st_mode), name
    assert (data / "images/minimal.ext4").stat().st_nlink == before["images/minimal.ext4"].st_nlink


async def test_a_killed_firecracker_is_told_and_leaves_nothing(
    driver: FirecrackerDriver, places: VmPlaces, data: Path
) -> None:
    where = places.make()
    async with driver.boot(tiny(where, data), where.place) as vm:
        await count_beyond(vm, 1)
        os.kill(vm.pid, 9)
        end = await vm.wait()
        assert end.reason is Reason.VMM_CRASHED
        assert "signal 9" in end.detail
        assert "tick" in end.console
        assert not Path(f"/proc/{vm.pid}").exists(), "a zombie is left"
        with pytest.raises(VmmError):
            await vm.pause()
    assert nothing_left(places, where)


async def test_a_detached_vm_goes_on_and_is_adopted(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, tmp_path: Path, binaries: FirecrackerBinaries
) -> None:
    where, again = places.make(), places.make()
    async with driver.boot(tiny(where, data), where.place) as vm:
        await count_beyond(vm, 1)
        record = json.loads(json.dumps(vm.record()))
        vm.detach()
    async with open_driver(binaries) as other:
        async with other.adopt(tiny(where, data), where.place, record) as adopted:
            last = (await count_beyond(adopted, 3))[-1]
            last = await save(adopted, tmp_path / "snapshot")
            async with other.restore(tiny(again, data), again.place, tmp_path / "snapshot") as fork:
                assert (await count_beyond(fork, last))[0] == last + 1
        assert nothing_left(places, where)
        with pytest.raises(VmGone):
            async with other.adopt(tiny(where, data), where.place, record):
                pass


async def test_a_damaged_state_is_refused_and_leaves_nothing(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, tmp_path: Path
) -> None:
    source, where = places.make(), places.make()
    snapshot = tmp_path / "snapshot"
    async with driver.boot(tiny(source, data), source.place) as vm:
        await save_soon(vm, snapshot)
    content = bytearray((snapshot / "state").read_bytes())
    content[len(content) // 2] ^= 1
    (snapshot / "state").chmod(0o644)
    (snapshot / "state").write_bytes(content)
    with pytest.raises(VmmError, match="state is damaged"):
        async with driver.restore(tiny(where, data), where.place, snapshot):
            pass
    # A manifest that agrees gets as far as Firecracker.
    manifest = json.loads((snapshot / "vmm.json").read_text())
    manifest["state_sha256"] = hashlib.sha256(content).hexdigest()
    (snapshot / "vmm.json").write_text(json.dumps(manifest))
    with pytest.raises(VmmError, match="CRC64"):
        async with driver.restore(tiny(where, data), where.place, snapshot):
            pass
    assert nothing_left(places, where)


async def test_a_short_memory_file_is_refused(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, tmp_path: Path
) -> None:
    source, where = places.make(), places.make()
    snapshot = tmp_path / "snapshot"
    async with driver.boot(tiny(source, data), source.place) as vm:
        await save_soon(vm, snapshot)
    os.truncate(snapshot / "memory", 32 << 20)
    with pytest.raises(VmmError, match=r"memory has 33554432 bytes instead of 67108864"):
        async with driver.restore(tiny(where, data), where.place, snapshot):
            pass
    # A manifest that lies gets as far as Firecracker.
    manifest = json.loads((snapshot / "vmm.json").read_text())
    manifest["sizes"]["memory"] = 32 << 20
    (snapshot / "vmm.json").write_text(json.dumps(manifest))
    with pytest.raises(VmmError, match="greater then file length"):
        async with driver.restore(tiny(where, data), where.place, snapshot):
            pass
    assert nothing_left(places, where)


async def test_what_is_missing_is_named(driver: FirecrackerDriver, places: VmPlaces, data: Path) -> None:
    where = places.make()
    subprocess.run(["ip", "-n", where.place.netns.name, "link", "del", "vmtap0"], check=True)  # noqa: ASYNC221
    with pytest.raises(VmmError, match="network-interfaces"):
        async with driver.boot(tiny(where, data), where.place):
            pass
    assert nothing_left(places, where)
    where.overlay.unlink()
    with pytest.raises(VmmError, match="overlay"):
        async with driver.boot(tiny(where, data), where.place):
            pass
    assert nothing_left(places, where)


async def test_a_kernel_that_is_none_is_refused(
    driver: FirecrackerDriver, places: VmPlaces, data: Path
) -> None:
    where = places.make()
    with pytest.raises(VmmError, match=r"(?i)kernel|elf"):
        async with driver.boot(tiny(where, data, kernel="initrd"), where.place):
            pass
    assert nothing_left(places, where)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("goodbye", Reason.GUEST_SHUTDOWN), ("Kernel panic - not syncing: test", Reason.KERNEL_PANIC)],
)
async def test_the_end_of_a_guest_has_a_reason(
    driver: FirecrackerDriver, places: VmPlaces, data: Path, text: str, reason: Reason
) -> None:
    where = places.make()
    assemble_last_words(data, text)
    async with driver.boot(tiny(where, data, kernel="last-words.elf"), where.place) as vm:
        end = await vm.wait()
    assert end.reason is reason, end
    assert text in end.console


async def test_other_file_systems_and_a_full_disk(
    driver: FirecrackerDriver, data: Path, tmp_path: Path
) -> None:
    """Files are mounted where they cannot be linked, and a snapshot without room for it leaves the VM as it was."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=140m", "none", small], check=True)  # noqa: ASYNC221
    try:
        places = VmPlaces(small / "places")
        try:
            where = places.make(overlay_mb=16)
            async with driver.boot(tiny(where, data), where.place) as vm:
                await count_beyond(vm, 1)
                (small / "fill").write_bytes(b"\0" * (64 << 20))
                with pytest.raises(OSError, match="memory snapshot"):
                    await save(vm, small / "snapshot")
                await vm.resume()
                await count_beyond(vm, (await ticks(vm))[-1])
            assert nothing_left(places, where)
        finally:
            places.close()
    finally:
        subprocess.run(["umount", small], check=True)  # noqa: ASYNC221


CALLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/nope", None),
    ("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 64}),
    ("PUT", "/actions", {"action_type": "InstanceStart"}),
    ("PUT", "/snapshot/create", {"snapshot_path": "/a", "mem_file_path": "/b"}),
    (
        "PUT",
        "/snapshot/load",
        {"snapshot_path": "/a", "mem_backend": {"backend_type": "File", "backend_path": "/b"}},
    ),
    ("PATCH", "/vm", {"state": "Paused"}),
    ("PATCH", "/vm", {"state": "Paused"}),
    ("PATCH", "/vm", {"state": "Resumed"}),
    ("PUT", "/serial", {"serial_out_path": "/x"}),
]


async def test_the_fake_answers_as_the_real_one(
    driver: FirecrackerDriver, places: VmPlaces, data: Path
) -> None:
    """The fake's texts are asked of the real one, after a boot through the same calls."""
    where = places.make()
    stand_in = fake.FakeFirecracker()
    stand_in.state = "Running"
    async with driver.boot(tiny(where, data), where.place) as vm:
        for method, path, body in CALLS:
            with contextlib.suppress(FirecrackerError):
                await vm.api.call(method, path, body)  # pyright: ignore[reportArgumentType] - a row of the table
            wanted = await fault_of(vm, method, path, body)
            try:
                stand_in._handle(method, path, body)
                stand_in._handle(method, path, body)
                found = None
            except fake.Fault as fault:
                found = str(fault)
            assert found == wanted, (method, path)


async def fault_of(vm: FirecrackerVm, method: Any, path: str, body: Any) -> str | None:
    try:
        await vm.api.call(method, path, body)
    except FirecrackerError as error:
        return error.fault
    return None


async def test_the_proof_of_kvm(binaries: FirecrackerBinaries, data: Path) -> None:
    assert await prove(binaries.firecracker, data / "kernels/tiny.elf") is None
    problem = await prove(binaries.firecracker, data / "kernels/initrd")
    assert problem is not None
    assert "magic" in problem.lower()


async def save_soon(vm: FirecrackerVm, directory: Path) -> None:
    await count_beyond(vm, 1)
    await save(vm, directory)


def assemble_last_words(data: Path, text: str) -> None:
    """A guest that says something and resets the machine."""
    source = data / "last-words.S"
    source.write_text(
        f"""
        .section .note.pvh, "a", @note
        .balign 4
        .long 4, 4, 18
        .asciz "Xen"
        .long start
        .section .text, "ax"
        .code32
        .globl start
start:  movl $words, %esi
        movw $0x3f8, %dx
1:      lodsb
        testb %al, %al
        jz 2f
        outb %al, %dx
        jmp 1b
2:      movb $0xfe, %al
        outb %al, $0x64
        jmp 2b
        .section .data, "aw"
words:  .asciz "{text}\\n"
        """
    )
    object_file = source.with_suffix(".o")
    subprocess.run(["as", "--64", "-o", object_file, source], check=True)
    script = source.with_suffix(".ld")
    script.write_text(
        "ENTRY(start) PHDRS { text PT_LOAD FLAGS(7); note PT_NOTE FLAGS(4); } SECTIONS { . = 0x100000; "
        ".note : { *(.note.pvh) } :text :note .text : { *(.text) } :text .data : { *(.data) } :text "
        "/DISCARD/ : { *(.note.gnu.property) } }"
    )
    target = data / "kernels/last-words.elf"
    subprocess.run(["ld", "-n", "-m", "elf_x86_64", "-T", script, "-o", target, object_file], check=True)
