"""The floor: what the VMM and envd alone need for the same work, by a plain script.

No control plane, agent, edge or SDK: QEMU is started with the platform's own command line, loads the platform's own
template snapshot, and envd is talked to over a socket made in the namespace. What a platform cannot be faster than.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wrenn_server.hostagent.network.base import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, TAP
from wrenn_server.hostagent.vmm import memory_image
from wrenn_server.hostagent.vmm import qemu_command as command
from wrenn_server.hostagent.vmm.template_memory import new_memory, seal_copy
from wrenn_server.linux import netns

T = TypeVar("T")
UID = 59000
TOKEN = "floor"  # noqa: S105 - of a VM of this script alone
COMMAND = "echo ready"


def milliseconds(began: float) -> float:
    """Since that `time.perf_counter()`."""
    return (time.perf_counter() - began) * 1000


def in_namespace(name: str, work: Callable[[], T]) -> T:
    """Runs `work` in a thread that entered the namespace; setns is per thread."""
    results: list[T] = []

    def target() -> None:
        netns.enter(Path("/run/netns") / name)
        results.append(work())

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return results[0]


@contextlib.contextmanager
def slot(name: str) -> Generator[str, None, None]:
    """A namespace with a TAP, as the platform prepares them."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        batch = [
            "link set lo up",
            f"tuntap add {TAP} mode tap user {UID} group {UID}",
            f"link set {TAP} address {GATEWAY_MAC}",
            f"addr add {GATEWAY_ADDRESS}/30 dev {TAP}",
            f"link set {TAP} up",
            f"neigh replace {GUEST_ADDRESS} lladdr {GUEST_MAC} nud permanent dev {TAP}",
        ]
        subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(batch), text=True, check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@dataclass(slots=True)
class Template:
    """What the platform keeps of a booted template, opened once."""

    root_image: Path
    directory: Path
    """With `memory`, `state`, `overlay.ext4`."""
    overlay: Path
    vcpus: int
    memory_mb: int
    memory_fd: int = field(init=False)

    def __post_init__(self) -> None:
        self.memory_fd = seal_copy(self.directory / "memory")

    def clone_overlay(self, target: Path) -> None:
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.overlay, target], check=True)
        os.chown(target, UID, UID)


class Vm:
    """One restored VM."""

    def __init__(
        self,
        template: Template,
        name: str,
        overlay: Path,
        *,
        stream: Path | None = None,
        snapshot: Path | None = None,
        token: str = TOKEN,
    ) -> None:
        """
        :param stream: what `pause_to` wrote
        :param snapshot: the `memory/` of a sandbox that came from the template and was paused by the platform
        :param token: the one that envd asks for, or is to ask for
        """
        self.namespace = name
        self.token = token
        machine = command.Machine(accel=command.Accel.TCG, vcpus=template.vcpus, memory_mb=template.memory_mb)
        argv = command.command("qemu-system-x86_64", name, machine, append=None)
        self.monitor, theirs = socket.socketpair()
        argv = [word.replace("server=on,wait=off", "server=off") for word in argv]
        null = os.open(os.devnull, os.O_RDWR)
        fds = {
            command.CONSOLE: null,
            command.LOG: null,
            command.MONITOR: theirs.fileno(),
            command.ROOT: os.open(template.root_image, os.O_RDONLY),
            command.OVERLAY: os.open(overlay, os.O_RDWR),
            command.TAP: in_namespace(name, lambda: netns.open_tap(TAP)),
        }
        # A stream brings all memory with it.
        fds[command.MEMORY] = (
            os.dup(template.memory_fd) if stream is None else new_memory(template.memory_mb << 20)
        )
        self.pid = spawn(argv, fds)
        for number in {*fds.values()} - {theirs.fileno()}:
            os.close(number)
        theirs.close()
        self._reader = self.monitor.makefile("rb")
        self._receive()  # the greeting
        self._command("qmp_capabilities")
        self._command("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
        if snapshot is not None:
            memory_image.apply(self.pid, snapshot)
        self._send_fd(os.open(stream or (snapshot or template.directory) / "state", os.O_RDONLY))
        self._migrate("migrate-incoming")
        if stream is not None:
            self._command(
                "cont"
            )  # it was stopped when it was saved; a template's device state says that it runs

    def pause_to(self, state: Path) -> None:
        """Stops the vCPUs and writes memory and device state, the way QEMU does it by itself: a migration to a file."""
        self._command("stop")
        self._command("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        descriptor = os.open(state, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._send_fd(os.dup(descriptor))
        self._migrate("migrate")
        os.fsync(descriptor)
        os.close(descriptor)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.monitor.close()

    def init(self) -> None:
        body = {
            "accessToken": self.token,
            "hostname": "floor",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime()),
            "entropy": base64.b64encode(os.urandom(64)).decode(),
            "machineId": "0" * 32,
            "lifecycleID": f"floor:{time.monotonic_ns()}",
        }
        connection = self.connect()
        connection.sendall(self._request("/init", json.dumps(body).encode(), "application/json"))
        answer = connection.recv(65536)
        if not answer.startswith(b"HTTP/1.1 204"):
            raise RuntimeError(f"envd refused /init: {answer[:200]!r}")
        connection.close()

    def connect(self) -> socket.socket:
        """Connects to envd, again as long as nothing answers: the first SYN after a restore may be lost."""
        while True:
            connection = in_namespace(
                self.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(0.25)
            try:
                connection.connect((GUEST_ADDRESS, 49983))
            except (TimeoutError, OSError):
                connection.close()
                continue
            connection.settimeout(60)
            return connection

    def run(self, line: str, connection: socket.socket) -> bytes:
        """A command through envd's Start, to the end of its stream; the raw body."""
        message = json.dumps(
            {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", line]}, "stdin": False}
        ).encode()
        body = b"\0" + len(message).to_bytes(4, "big") + message
        connection.sendall(self._request("/process.Process/Start", body, "application/connect+json"))
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            chunk = connection.recv(65536)
            if not chunk:
                raise RuntimeError(f"envd closed the stream: {received[:300]!r}")
            received += chunk
        return received

    def pss(self) -> int:
        """Bytes of memory, shared pages divided by their users."""
        return pss(self.pid)

    def _request(self, path: str, body: bytes, kind: str) -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: envd\r\nX-Access-Token: {self.token}\r\nConnect-Protocol-Version: 1\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _migrate(self, name: str) -> None:
        self._command(name, {"uri": "fd:state"})
        while (event := self._receive()).get("data", {}).get("status") != "completed":
            if event.get("data", {}).get("status") == "failed":
                raise RuntimeError(f"{name} failed")

    def _send_fd(self, descriptor: int) -> None:
        text = json.dumps({"execute": "getfd", "arguments": {"fdname": "state"}}).encode()
        socket.send_fds(self.monitor, [text], [descriptor])
        os.close(descriptor)
        self._answer("getfd")

    def _command(self, name: str, arguments: dict[str, Any] | None = None) -> None:
        self.monitor.sendall(json.dumps({"execute": name, "arguments": arguments or {}}).encode())
        self._answer(name)

    def _answer(self, name: str) -> None:
        while True:
            message = self._receive()
            if "error" in message:
                raise RuntimeError(f"{name}: {message['error']}")
            if "return" in message:
                return

    def _receive(self) -> dict[str, Any]:
        line = self._reader.readline()
        if not line:
            raise RuntimeError("QEMU closed its monitor")
        return json.loads(line)


def spawn(argv: list[str], fds: dict[int, int]) -> int:
    """Forks and execs with exactly these descriptors under these numbers, as an unprivileged user."""
    setpriv = [
        "--reuid",
        str(UID),
        "--regid",
        str(UID),
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]
    line = [shutil.which("setpriv") or "setpriv", *setpriv, *argv]
    pid = os.fork()
    if pid == 0:
        try:
            high = {number: os.dup2(source, 100 + number) for number, source in fds.items()}
            for number, source in high.items():
                os.dup2(source, number, inheritable=True)
            os.closerange(max(fds) + 1, 4096)
            os.execv(line[0], line)  # noqa: S606 - an argv list of ours
        finally:
            os._exit(127)
    return pid


def pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss of {pid}")
