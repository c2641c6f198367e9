"""Places to run real VMs in: a namespace with the TAP of the platform, an overlay, a directory, a cgroup name. And
a way to talk to the guest from inside the namespace."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrenn_server.hostagent.network.base import (
    GATEWAY_ADDRESS,
    GATEWAY_MAC,
    GUEST_ADDRESS,
    GUEST_MAC,
    TAP,
    Slot,
)
from wrenn_server.hostagent.vmm.base import Place, VmSpec
from wrenn_server.linux import netns
from wrenn_server.linux.cgroup import Cgroups

_UID_BASE = 58_000
_numbers = itertools.count()


@dataclass(frozen=True)
class VmPlace:
    """One namespace with all that a VM needs beside it."""

    place: Place
    overlay: Path

    def spec(self, data: Path, *, kernel: str = "vmlinux", memory_mb: int = 256, vcpus: int = 1) -> VmSpec:
        return VmSpec(
            vcpus=vcpus,
            memory_mb=memory_mb,
            kernel=data / "kernels" / kernel,
            initrd=data / "kernels/initrd",
            root_image=data / "images/minimal.ext4",
            overlay=self.overlay,
        )

    @property
    def guest(self) -> "Guest":
        return Guest(self.place.netns)

    def copy_overlay(self, source: Path) -> None:
        """Takes over another VM's disk."""
        _run("cp", "--sparse=always", source, self.overlay)
        os.chown(self.overlay, self.place.uid, self.place.gid)


class VmPlaces:
    """Makes places and removes them, with everything that a test left there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self._namespaces: list[str] = []
        self.cgroup = f"wrenn-test-{os.getpid()}"

    def make(self, *, overlay_mb: int = 256) -> VmPlace:
        number = next(_numbers)
        uid = _UID_BASE + (os.getpid() * 16 + number) % 1000
        name = f"wrenn-t{os.getpid()}-{number}"
        # fmt: off
        for arguments in (
            ("netns", "add", name),
            ("-n", name, "link", "set", "lo", "up"),
            ("-n", name, "tuntap", "add", TAP, "mode", "tap", "user", str(uid)),
            ("-n", name, "link", "set", TAP, "address", GATEWAY_MAC),
            ("-n", name, "addr", "add", f"{GATEWAY_ADDRESS}/30", "dev", TAP),
            ("-n", name, "link", "set", TAP, "up"),
            ("-n", name, "neigh", "replace", GUEST_ADDRESS, "lladdr", GUEST_MAC, "nud", "permanent", "dev", TAP),
        ):
            _run("ip", *arguments)
            if name not in self._namespaces:
                self._namespaces.append(name)
        # fmt: on
        return self._furnished(number, Path("/run/netns") / name, uid, overlay_mb)

    def in_slot(self, slot: Slot, *, overlay_mb: int = 256) -> VmPlace:
        """In a namespace that a pool has prepared."""
        return self._furnished(next(_numbers), slot.netns, slot.uid, overlay_mb)

    def _furnished(self, number: int, namespace: Path, uid: int, overlay_mb: int) -> VmPlace:
        overlay = self._directory / f"overlay-{number}.ext4"
        with overlay.open("wb") as file:
            file.truncate(overlay_mb << 20)
        _run("mke2fs", "-q", "-t", "ext4", "-L", "wrenn-overlay", overlay)
        os.chown(overlay, uid, uid)
        overlay.chmod(0o600)
        directory = self._directory / f"vm-{number}"
        directory.mkdir(mode=0o700)
        return VmPlace(
            Place(
                id=f"t{os.getpid()}-{number}",
                directory=directory,
                uid=uid,
                gid=uid,
                netns=namespace,
                tap=TAP,
                cgroup=f"{self.cgroup}/t{number}",
            ),
            overlay,
        )

    def close(self) -> None:
        for name in self._namespaces:
            _run("ip", "netns", "del", name)
        for root in set(Cgroups.detect().roots.values()):
            for level in (*(root / self.cgroup).glob("*/"), root / self.cgroup):
                with contextlib.suppress(FileNotFoundError):
                    level.rmdir()
        shutil.rmtree(self._directory)


def vm_places(directory: Path) -> Iterator[VmPlaces]:
    """Body of a fixture."""
    places = VmPlaces(directory)
    try:
        yield places
    finally:
        places.close()


class Guest:
    """The guest behind a namespace, asked from inside of it. Blocks; for tests only."""

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        self.token = "t" * 32

    def connect(self, timeout: float) -> socket.socket:
        made: list[socket.socket] = []

        def make() -> None:
            netns.enter(self._namespace)
            made.append(socket.socket())

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        made[0].settimeout(timeout)
        try:
            made[0].connect((GUEST_ADDRESS, 49983))
        except BaseException:
            made[0].close()
            raise
        return made[0]

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
    ) -> bytes:
        connection = http.client.HTTPConnection(GUEST_ADDRESS)
        connection.sock = self.connect(timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"X-Access-Token": self.token, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, (answer.status, content[:500])
            return content

    def wait(self, deadline: float = 60.0) -> float:
        """Waits until envd answers. Returns the seconds it took."""
        start = time.monotonic()
        while True:
            try:
                self.connect(0.3).close()
                self.request("GET", "/health")
            except (OSError, http.client.HTTPException):
                assert time.monotonic() - start < deadline, "the guest does not answer"
                time.sleep(0.01)  # there is no event that crosses the boundary of a VM
            else:
                return time.monotonic() - start

    def init(self) -> None:
        body: dict[str, Any] = {
            "accessToken": self.token,
            "defaultUser": "root",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "entropy": base64.b64encode(os.urandom(64)).decode(),
            "lifecycleID": os.urandom(8).hex(),
        }
        self.request("POST", "/init", json.dumps(body).encode(), {"Content-Type": "application/json"})

    def run(self, command: str, timeout: float = 30.0) -> str:
        """Standard output of a shell command, run as root."""
        message = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", command]}}).encode()
        answer = self.request(
            "POST",
            "/process.Process/Start",
            struct.pack(">BI", 0, len(message)) + message,
            {
                "Content-Type": "application/connect+json",
                "Connect-Protocol-Version": "1",
                "Authorization": "Basic " + base64.b64encode(b"root:").decode(),
            },
            timeout,
        )
        output = b""
        while answer:
            _, length = struct.unpack(">BI", answer[:5])
            event = json.loads(answer[5 : 5 + length] or b"{}").get("event", {})
            output += base64.b64decode(event.get("data", {}).get("stdout", ""))
            answer = answer[5 + length :]
        return output.decode()


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)
