"""Which driver a host uses: a real proof of KVM, then a pure decision."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from wrenn_server.hostagent.vmm.base import VmmError
from wrenn_server.hostagent.vmm.firecracker import FirecrackerDriver
from wrenn_server.hostagent.vmm.qemu import QemuDriver
from wrenn_server.hostagent.vmm.qemu_command import Accel
from wrenn_server.linux import kvm
from wrenn_server.linux.cgroup import Cgroups
from wrenn_server.linux.process import run

_BANNER = "TINY-PVH"
_PROOF_TIMEOUT = 2.0
"""Seconds within which Firecracker must get the small guest to speak; 20 ms where KVM works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    firecracker: Path
    jailer: Path

    @classmethod
    def find(cls) -> "Binaries | None":
        """Both on PATH, or nothing."""
        firecracker, jailer = shutil.which("firecracker"), shutil.which("jailer")
        if firecracker is None or jailer is None:
            return None
        return cls(firecracker=Path(firecracker).resolve(), jailer=Path(jailer).resolve())


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    driver: str
    accel: Accel
    why: str
    """One sentence for the log and for `wrenn doctor`."""

    @property
    def isolates(self) -> bool:
        """Whether the VMM is a security boundary; QEMU's software emulation is none."""
        return self.accel is Accel.KVM


def choose(wanted: str, verdict: kvm.Verdict, binaries: Binaries | None) -> Choice:
    """`AGENT_VMM` against what the host can do. Pure.

    :raises VmmError: the wanted driver cannot work here; the message says why and what to do.
    """
    if wanted not in {"auto", "firecracker", "qemu"}:
        raise VmmError(f"AGENT_VMM={wanted!r}: expected auto, firecracker or qemu")
    missing = None if binaries is not None else "firecracker and jailer are not on PATH"
    if wanted == "firecracker":
        if problem := missing or (None if verdict.usable else verdict.reason):
            raise VmmError(f"AGENT_VMM=firecracker, but {problem}; AGENT_VMM=qemu works without")
        return Choice(driver="firecracker", accel=Accel.KVM, why=verdict.reason)
    if wanted == "auto" and verdict.usable and missing is None:
        return Choice(driver="firecracker", accel=Accel.KVM, why=verdict.reason)
    if verdict.usable:
        return Choice(
            driver="qemu", accel=Accel.KVM, why="AGENT_VMM=qemu" if wanted == "qemu" else str(missing)
        )
    return Choice(driver="qemu", accel=Accel.TCG, why=f"software emulation, because {verdict.reason}")


async def probe(cache: Path, kernel: Path, tiny: Path, binaries: Binaries | None) -> kvm.Verdict:
    """Is KVM good for Linux guests? Remembered in `cache` for this boot, Firecracker and kernel.

    :param tiny: the small test guest; Firecracker must get it to speak where Firecracker is installed.
    """
    key = await asyncio.to_thread(_key, kernel, binaries)
    if (known := kvm.remembered(cache, key)) is not None:
        return known
    verdict = kvm.judge(await asyncio.to_thread(kvm.examine))
    if verdict.usable and binaries is not None:
        problem = await prove(binaries.firecracker, tiny)
        if problem is not None:
            verdict = kvm.Verdict(usable=False, reason=problem)
    kvm.remember(cache, key, verdict)
    return verdict


async def prove(firecracker: Path, tiny: Path) -> str | None:
    """Boots the small guest in Firecracker without a jail. None, or what went wrong."""
    spoken = asyncio.Event()
    said: list[str] = []

    def listen(line: str) -> None:
        said.append(line[:200])
        del said[:-3]
        if _BANNER in line:
            spoken.set()

    with tempfile.TemporaryDirectory(prefix="wrenn-probe-") as directory:
        config = Path(directory) / "vm.json"
        config.write_text(
            json.dumps(
                {
                    "boot-source": {"kernel_image_path": os.fspath(tiny), "boot_args": "console=ttyS0"},
                    "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},
                    "drives": [],
                }
            )
        )
        argv = [os.fspath(firecracker), "--no-api", "--config-file", os.fspath(config), "--id", "probe"]
        guest = asyncio.create_task(run(argv, check=False, on_line=listen, timeout=_PROOF_TIMEOUT))
        waiting = asyncio.create_task(spoken.wait())
        await asyncio.wait({guest, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, guest):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError, Exception):
                await task
    if spoken.is_set():
        return None
    return "Firecracker did not get a small guest to speak" + (f": {' | '.join(said)}" if said else "")


@contextlib.asynccontextmanager
async def opened(
    choice: Choice, cgroups: Cgroups, binaries: Binaries | None
) -> AsyncGenerator[QemuDriver | FirecrackerDriver, None]:
    """The chosen driver, ready for use.

    :raises VmmError: its programs are missing or unusable.
    """
    if choice.driver == "firecracker":
        if binaries is None:
            raise VmmError("firecracker and jailer are not on PATH")
        driver = FirecrackerDriver(cgroups=cgroups, firecracker=binaries.firecracker, jailer=binaries.jailer)
    else:
        driver = QemuDriver(cgroups=cgroups, accel=choice.accel)
    await driver.version()
    async with driver:
        yield driver


def _key(kernel: Path, binaries: Binaries | None) -> str:
    digests = [kvm.boot_id()]
    for file in (binaries.firecracker if binaries else None, kernel):
        if file is None:
            digests.append("none")
            continue
        with file.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    return " ".join(digests)
